/* Loads that only compute: whole numbers, SHA-256, sorting, doubles, memory bandwidth, CRC, x87. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "cpuload.h"

/* A generator of numbers that every machine has alike. */
static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

/*
 * Whole numbers: what small programs do, in the mix that CoreMark made known: walk, reverse and
 * sort a linked list; multiply small matrices; scan text with a state machine; a CRC over the
 * results.
 */
enum { NODES = 500, SIDE = 24, TEXT = 2000 };

struct node {
	struct node *next;
	int16_t key, value;
};

static uint16_t crc16(uint16_t crc, uint32_t value)
{
	for (int i = 0; i < 32; i++, value >>= 1)
		crc = (uint16_t)((crc >> 1) ^ (((crc ^ value) & 1) ? 0xa001 : 0));
	return crc;
}

static struct node *list_find(struct node *head, int16_t key)
{
	while (head && head->key != key)
		head = head->next;
	return head;
}

static struct node *list_reverse(struct node *head)
{
	struct node *done = NULL;

	while (head) {
		struct node *next = head->next;

		head->next = done;
		done = head;
		head = next;
	}
	return done;
}

static struct node *list_merge(struct node *a, struct node *b)
{
	struct node *head = NULL, **tail = &head;

	while (a && b) {
		struct node **least = a->value <= b->value ? &a : &b;

		*tail = *least;
		tail = &(*least)->next;
		*least = (*least)->next;
	}
	*tail = a ? a : b;
	return head;
}

static struct node *list_sort(struct node *head, unsigned int length)
{
	struct node *half = head, *rest;

	if (length < 2)
		return head;
	for (unsigned int i = 1; i < length / 2; i++)
		half = half->next;
	rest = half->next;
	half->next = NULL;
	head = list_sort(head, length / 2);
	return list_merge(head, list_sort(rest, length - length / 2));
}

static uint16_t pass_list(uint32_t *seed, uint16_t crc)
{
	static struct node nodes[NODES];
	struct node *head = NULL;

	for (int i = 0; i < NODES; i++) {
		nodes[i] = (struct node){head, (int16_t)i, (int16_t)next_random(seed)};
		head = &nodes[i];
	}
	for (int i = 0; i < 20; i++) {
		struct node *found = list_find(head, (int16_t)(next_random(seed) % NODES));

		head = list_reverse(head);
		crc = crc16(crc, (uint32_t)(uint16_t)found->value);
	}
	head = list_sort(head, NODES);
	return crc16(crc, (uint32_t)(uint16_t)head->value);
}

static uint16_t pass_matrix(uint32_t *seed, uint16_t crc)
{
	static int16_t a[SIDE][SIDE], b[SIDE][SIDE];
	static int32_t c[SIDE][SIDE];

	for (int i = 0; i < SIDE * SIDE; i++) {
		(&a[0][0])[i] = (int16_t)(next_random(seed) & 0xff);
		(&b[0][0])[i] = (int16_t)(next_random(seed) & 0xff);
	}
	for (int i = 0; i < SIDE; i++)
		for (int j = 0; j < SIDE; j++) {
			int32_t sum = 0;

			for (int k = 0; k < SIDE; k++)
				sum += ((a[i][k] * b[k][j]) >> 2 & 0xf) *
				       ((a[i][k] * b[k][j]) >> 5 & 0x7f);
			c[i][j] = sum;
		}
	for (int i = 0; i < SIDE; i++)
		crc = crc16(crc, (uint32_t)c[i][(i * 7) % SIDE]);
	return crc;
}

/* Which kind of number each word of the text is. */
static uint16_t pass_states(uint32_t *seed, uint16_t crc)
{
	enum { START, INT, FRACTION, EXPONENT, SCIENTIFIC, BAD, STATES } state = START;
	static const char letters[] = "0123456789012345678901234+-..eE,,,,x";
	uint32_t counts[STATES] = {0};
	char text[TEXT];

	for (int i = 0; i < TEXT; i++)
		text[i] = letters[next_random(seed) % (sizeof(letters) - 1)];
	for (int i = 0; i < TEXT; i++) {
		char c = text[i];

		if (c == ',') {
			counts[state]++;
			state = START;
			continue;
		}
		switch (state) {
		case START:
			state = (c >= '0' && c <= '9') || c == '+' || c == '-' ? INT
				: c == '.'				       ? FRACTION
									       : BAD;
			break;
		case INT:
			if (c == '.')
				state = FRACTION;
			else if (c < '0' || c > '9')
				state = BAD;
			break;
		case FRACTION:
			if (c == 'e' || c == 'E')
				state = EXPONENT;
			else if (c < '0' || c > '9')
				state = BAD;
			break;
		case EXPONENT:
			state = (c >= '0' && c <= '9') || c == '+' || c == '-' ? SCIENTIFIC : BAD;
			break;
		case SCIENTIFIC:
			if (c < '0' || c > '9')
				state = BAD;
			break;
		default:
			break;
		}
	}
	for (int i = 0; i < STATES; i++)
		crc = crc16(crc, counts[i]);
	return crc;
}

uint64_t load_coremark(uint64_t *sum)
{
	uint32_t seed = 0x3415;
	uint16_t crc = 0;

	for (int i = 0; i < 20; i++) {
		crc = pass_list(&seed, crc);
		crc = pass_matrix(&seed, crc);
		crc = pass_states(&seed, crc);
	}
	*sum = *sum * 31 + crc;
	return 20;
}

/* SHA-256, FIPS 180-4. */
static const uint32_t sha_k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

static uint32_t ror(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *data)
{
	uint32_t w[64], v[8];

	for (int i = 0; i < 16; i++, data += 4)
		w[i] = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 |
		       data[3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] +
		       (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(v, h, sizeof(v));
	for (int i = 0; i < 64; i++) {
		uint32_t t1 = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) +
			      ((v[4] & v[5]) ^ (~v[4] & v[6])) + sha_k[i] + w[i];
		uint32_t t2 = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) +
			      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		memmove(v + 1, v, 7 * sizeof(v[0]));
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

uint64_t load_sha256(uint64_t *sum)
{
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	static uint8_t data[64 * 1024];

	for (unsigned int i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 131);
	for (unsigned int i = 0; i < sizeof(data); i += 64)
		sha_block(h, data + i);
	*sum = *sum * 31 + ((uint64_t)h[0] << 32 | h[7]);
	return sizeof(data);
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

uint64_t load_qsort(uint64_t *sum)
{
	enum { COUNT = 20000 };
	static uint32_t numbers[COUNT];
	uint32_t seed = 99;

	for (int i = 0; i < COUNT; i++)
		numbers[i] = next_random(&seed);
	qsort(numbers, COUNT, sizeof(numbers[0]), compare);
	for (int i = 0; i < COUNT; i += 97)
		*sum = *sum * 31 + numbers[i];
	return COUNT;
}

/* Bits of a double, so that one bit of difference shows. */
static uint64_t bits(double d)
{
	uint64_t u;

	memcpy(&u, &d, sizeof(u));
	return u;
}

uint64_t load_nbody(uint64_t *sum)
{
	enum { BODIES = 5, STEPS = 2000 };
	struct {
		double x[3], v[3], mass;
	} b[BODIES];
	uint32_t seed = 5;

	for (int i = 0; i < BODIES; i++) {
		b[i].mass = 1.0 / (1 + i * i);
		for (int k = 0; k < 3; k++) {
			b[i].x[k] = 10.0 * i + next_random(&seed) / 16777216.0;
			b[i].v[k] = next_random(&seed) / 16777216.0 - 0.5;
		}
	}
	for (int s = 0; s < STEPS; s++) {
		for (int i = 0; i < BODIES; i++)
			for (int j = i + 1; j < BODIES; j++) {
				double d[3], square = 1e-3, force;

				for (int k = 0; k < 3; k++) {
					d[k] = b[i].x[k] - b[j].x[k];
					square += d[k] * d[k];
				}
				force = 0.001 / (square * sqrt(square));
				for (int k = 0; k < 3; k++) {
					b[i].v[k] -= d[k] * b[j].mass * force;
					b[j].v[k] += d[k] * b[i].mass * force;
				}
			}
		for (int i = 0; i < BODIES; i++)
			for (int k = 0; k < 3; k++)
				b[i].x[k] += 0.001 * b[i].v[k];
	}
	*sum = *sum * 31 + bits(b[0].x[0]) + bits(b[4].v[2]);
	return STEPS;
}

/* A dense system of equations by elimination with row exchange. */
uint64_t load_linpack(uint64_t *sum)
{
	enum { N = 120 };
	static double a[N][N + 1];
	uint32_t seed = 17;

	for (int i = 0; i < N; i++)
		for (int j = 0; j <= N; j++)
			a[i][j] = next_random(&seed) / 16777216.0 - 0.5;
	for (int c = 0; c < N; c++) {
		int best = c;

		for (int r = c + 1; r < N; r++)
			if (fabs(a[r][c]) > fabs(a[best][c]))
				best = r;
		for (int j = c; j <= N; j++) {
			double t = a[c][j];

			a[c][j] = a[best][j];
			a[best][j] = t;
		}
		for (int r = c + 1; r < N; r++) {
			double factor = a[r][c] / a[c][c];

			for (int j = c; j <= N; j++)
				a[r][j] -= factor * a[c][j];
		}
	}
	for (int r = N - 1; r >= 0; r--) {
		for (int j = r + 1; j < N; j++)
			a[r][N] -= a[r][j] * a[j][N];
		a[r][N] /= a[r][r];
	}
	*sum = *sum * 31 + bits(a[0][N]) + bits(a[N - 1][N]);
	return 2ull * N * N * N / 3 + 2ull * N * N;
}

uint64_t load_triad(uint64_t *sum)
{
	enum { COUNT = 1 << 20 };
	static double *a, *b, *c;

	if (!a) {
		a = malloc(COUNT * sizeof(*a));
		b = malloc(COUNT * sizeof(*b));
		c = malloc(COUNT * sizeof(*c));
		if (!a || !b || !c)
			return 0;
		for (int i = 0; i < COUNT; i++) {
			b[i] = i;
			c[i] = COUNT - i;
		}
	}
	for (int i = 0; i < COUNT; i++)
		a[i] = b[i] + 3.0 * c[i];
	*sum = *sum * 31 + bits(a[COUNT / 3]);
	return 3ull * COUNT * sizeof(*a);
}

/* A CRC-32 by a table of bytes, as gzip and zlib of old do. */
uint64_t load_crc32(uint64_t *sum)
{
	enum { SIZE = 1 << 16 };
	static uint32_t table[256];
	static uint8_t data[SIZE];
	uint32_t seed = 7, crc = ~0u;

	if (!table[1]) {
		for (uint32_t i = 0; i < 256; i++) {
			table[i] = i;
			for (int bit = 0; bit < 8; bit++)
				table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
		}
		for (int i = 0; i < SIZE; i++)
			data[i] = (uint8_t)next_random(&seed);
	}
	for (int i = 0; i < SIZE; i++)
		crc = crc >> 8 ^ table[(uint8_t)(crc ^ data[i])];
	*sum = *sum * 31 + crc;
	return SIZE;
}

/* Divisions of 32 and 64 bits, with and without a sign. */
uint64_t load_divide(uint64_t *sum)
{
	enum { COUNT = 1 << 14 };
	uint64_t wide = 0x123456789abcdef, out = 0;
	uint32_t seed = 9;

	for (int i = 0; i < COUNT / 4; i++) {
		uint32_t d = next_random(&seed) | 1;
		int32_t n = (int32_t)next_random(&seed) - (1 << 23);

		wide = wide * 31 + i;
		out += wide / d + (uint64_t)((int64_t)wide % (int64_t)(d >> 1 | 1));
		out += (uint32_t)wide % (d >> 8 | 1) + (uint32_t)(n / (int32_t)(d >> 12 | 3));
	}
	*sum = *sum * 31 + out;
	return COUNT;
}

/* The x87 unit: square roots by Newton's way, in long doubles. */
uint64_t load_x87(uint64_t *sum)
{
	enum { COUNT = 1000, STEPS = 8 };
	long double total = 0;

	for (int i = 1; i <= COUNT; i++) {
		long double x = i;

		for (int step = 0; step < STEPS; step++)
			x = (x + i / x) / 2;
		total += x;
	}
	*sum = *sum * 31 + bits((double)total);
	return 3ull * COUNT * STEPS + COUNT;
}

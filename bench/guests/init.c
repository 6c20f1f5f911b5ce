/* The whole user land of a boot benchmark: end the run at the first instruction of init, or with the
 * argument "off" power off. */
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "off"))
		reboot(RB_POWER_OFF);
	if (!iopl(3))
		outb(0, 0xf4);
	for (;;)
		pause();
}

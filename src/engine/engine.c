#include "engine/engine.h"

#include <string.h>

#define ENGINE(id)  extern const struct engine_class id;
#define VARIANT(id) ENGINE(id)
#include "engine/engines.def"
#undef ENGINE
#undef VARIANT

const struct engine_class *const engine_classes[] = {
#define ENGINE(id) &id,
#define VARIANT(id)
#include "engine/engines.def"
#undef ENGINE
#undef VARIANT
	NULL,
};

static const struct engine_class *const engine_variants[] = {
#define ENGINE(id)
#define VARIANT(id) &id,
#include "engine/engines.def"
#undef ENGINE
#undef VARIANT
};

const struct engine_class *engine_lookup(const char *name)
{
	for (size_t i = 0; engine_classes[i]; i++)
		if (!strcmp(engine_classes[i]->name, name))
			return engine_classes[i];
	for (size_t i = 0; i < ARRAY_SIZE(engine_variants); i++)
		if (!strcmp(engine_variants[i]->name, name))
			return engine_variants[i];
	return NULL;
}

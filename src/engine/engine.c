#include "engine/engine.h"

#include <string.h>

#define ENGINE(id) extern const struct engine_class id;
#include "engine/engines.def"
#undef ENGINE

const struct engine_class *const engine_classes[] = {
#define ENGINE(id) &id,
#include "engine/engines.def"
#undef ENGINE
	NULL,
};

const struct engine_class *engine_lookup(const char *name)
{
	for (size_t i = 0; engine_classes[i]; i++)
		if (!strcmp(engine_classes[i]->name, name))
			return engine_classes[i];
	return NULL;
}

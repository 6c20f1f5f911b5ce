#include "block/compress.h"

#include "os/plugin.h"

const struct compress_class *compress_load(struct err *err)
{
	return plugin_symbol("compress", "compress_plugin", err);
}

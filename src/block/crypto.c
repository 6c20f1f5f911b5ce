#include "block/crypto.h"

#include "os/plugin.h"

const struct crypto_class *crypto_load(struct err *err)
{
	return plugin_symbol("crypto", "crypto_plugin", err);
}

/*
 * Plug-ins: shared objects beside the program (or in ../lib/bothy) that carry what pulls in large
 * libraries, so that a run which does not use them does not load them. Each exports one const
 * structure. Loaded on first use, never unloaded. The environment variable BOTHY_PLUGINS names
 * another folder (tests, unusual installations). Before the sandbox locks, main thread.
 */
#ifndef OS_PLUGIN_H
#define OS_PLUGIN_H

#include "base/err.h"

/* Load bothy-NAME.so and return its symbol, or NULL with the reason and the package to install. */
const void *plugin_symbol(const char *name, const char *symbol, struct err *err);

#endif

/* The choice of the executing back end. */
#include "engine/soft/soft.h"

#include <errno.h>
#include <string.h>

#include "engine/soft/arch_int.h"

static const struct kvm_exec_ops *const back_ends[] = {
	&translator_ops, /* the default */
	&interpreter_ops,
	&eager_ops,
};

int soft_kvm_open_exec(const char *exec)
{
	for (size_t i = 0; i < ARRAY_SIZE(back_ends); i++)
		if (!exec || !strcmp(back_ends[i]->name, exec))
			return soft_open_with(back_ends[i]);
	return -EINVAL;
}

int soft_kvm_open(void)
{
	return soft_kvm_open_exec(NULL);
}

/* The choice of the executing back end. */
#include "engine/soft/soft.h"

#include "engine/soft/arch_int.h"

int soft_kvm_open(void)
{
	return soft_open_with(&interpreter_ops);
}

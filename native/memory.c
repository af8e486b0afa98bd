// What was freed, given back to the system.
#include "addon.h"

#include <malloc.h>

napi_value memory_trim(napi_env env, napi_callback_info info) {
  (void)env;
  (void)info;
  malloc_trim(0);
  return NULL;
}

// The addon's table of functions. Each is written in the file that its prefix names.
#include "addon.h"

#include <stdlib.h>

static const struct {
  const char *name;
  napi_callback function;
} functions[] = {
    {"openSocket", socket_open},
    {"setOption", socket_set_option},
    {"bind", socket_bind},
    {"accept", socket_accept},
    {"receive", socket_receive},
    {"send", socket_send},
    {"exchange", netlink_exchange},
    {"lane", lane_open},
    {"begin", lane_begin},
    {"run", lane_run},
    {"attend", lane_attend},
    {"reply", reply_open},
    {"armReply", reply_arm},
    {"takeReply", reply_take},
    {"poll", poll_start},
    {"openFile", namespace_open_file},
    {"createNamespace", namespace_create},
    {"unmountNamespace", namespace_unmount},
    {"close", descriptor_close},
    {"trimMemory", memory_trim},
    {"openTun", tun_open},
    {"keepTun", tun_keep},
    {"ethtool", link_ethtool},
    {"pump", pump_open},
    {"setPumpTable", pump_table},
    {"pumpState", pump_state},
    {"stopPump", pump_close},
};

static void free_instance(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  struct instance *instance = data;
  free(instance->answer.bytes);
  free(instance);
}

NAPI_MODULE_INIT() {
  struct instance *instance = calloc(1, sizeof *instance);
  if (instance == NULL || napi_set_instance_data(env, instance, free_instance, NULL) != napi_ok) {
    free(instance);
    napi_throw_error(env, NULL, "fairlead: out of memory");
    return NULL;
  }
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
    napi_value function;
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL, &function) !=
            napi_ok ||
        napi_set_named_property(env, exports, functions[i].name, function) != napi_ok) {
      return throw_pending(env);
    }
  }
  return exports;
}

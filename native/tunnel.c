// TUN devices, the pump of packets behind one, and the one ethtool call that links need.
#include "tunnel.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static const napi_type_tag pump_tag = {0x6661697264656164, 0x70756d7000000001};

struct tun_call {
  const char *name;
  bool must_be_new;
};

static int open_tun_here(void *argument, struct failure *failure) {
  const struct tun_call *call = argument;
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) {
    fail(failure, "open");
    return -1;
  }
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | (call->must_be_new ? IFF_TUN_EXCL : 0)};
  strncpy(request.ifr_name, call->name, IFNAMSIZ - 1);
  int header_bytes = sizeof(struct virtio_net_hdr);
  if (ioctl(fd, TUNSETIFF, &request) != 0 || ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) != 0 ||
      ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) != 0) {
    fail(failure, "ioctl");
    close(fd);
    return -1;
  }
  return fd;
}

static bool read_name(napi_env env, napi_value value, char name[IFNAMSIZ]) {
  char text[PATH_MAX];
  if (!read_path(env, value, "name", text, sizeof text)) return false;
  if (strlen(text) >= IFNAMSIZ) {
    napi_throw_range_error(env, NULL, "name must be between 1 and 15 bytes long");
    return false;
  }
  strcpy(name, text);
  return true;
}

napi_value tun_open(napi_env env, napi_callback_info info) {
  napi_value values[3];
  int namespace_fd;
  char name[IFNAMSIZ];
  struct tun_call call = {name, false};
  if (!read_arguments(env, info, 3, values) || !read_namespace(env, values[0], "namespaceFd", &namespace_fd) ||
      !read_name(env, values[1], name)) {
    return NULL;
  }
  if (napi_get_value_bool(env, values[2], &call.must_be_new) != napi_ok) return throw_pending(env);
  struct failure failure;
  int fd = namespace_fd < 0 ? open_tun_here(&call, &failure)
                            : on_own_thread(namespace_fd, open_tun_here, &call, &failure);
  return fd < 0 ? throw_failure(env, failure) : make_int(env, fd);
}

napi_value tun_keep(napi_env env, napi_callback_info info) {
  napi_value value;
  int fd;
  if (!read_arguments(env, info, 1, &value) || !read_descriptor(env, value, "fd", &fd)) return NULL;
  if (ioctl(fd, TUNSETPERSIST, 1) == 0) return make_undefined(env);
  return throw_failure(env, (struct failure){errno, "ioctl"});
}

napi_value link_ethtool(napi_env env, napi_callback_info info) {
  napi_value values[4];
  int fd, command, data;
  char name[IFNAMSIZ];
  if (!read_arguments(env, info, 4, values) || !read_descriptor(env, values[0], "fd", &fd) ||
      !read_name(env, values[1], name) || !read_int(env, values[2], "command", 0, INT_MAX, &command) ||
      !read_int(env, values[3], "value", 0, INT_MAX, &data)) {
    return NULL;
  }
  struct ethtool_value value = {(uint32_t)command, (uint32_t)data};
  struct ifreq request = {.ifr_data = (void *)&value};
  memcpy(request.ifr_name, name, IFNAMSIZ);
  if (ioctl(fd, SIOCETHTOOL, &request) == 0) return make_int(env, (int)value.data);
  return throw_failure(env, (struct failure){errno, "ioctl"});
}

// --- the pump as an object ---

struct handle {
  struct pump *pump;  // NULL: stopped
};

static struct handle *unwrap(napi_env env, napi_value object) {
  bool ours = false;
  void *handle = NULL;
  napi_valuetype type = napi_undefined;
  napi_typeof(env, object, &type);
  if (type == napi_object && napi_check_object_type_tag(env, object, &pump_tag, &ours) == napi_ok && ours &&
      napi_unwrap(env, object, &handle) == napi_ok && ((struct handle *)handle)->pump != NULL) {
    return handle;
  }
  napi_throw_type_error(env, NULL, "pump must be a running pump of this addon");
  return NULL;
}

static void stop(void *data) {
  struct handle *handle = data;
  if (handle->pump != NULL) pump_stop(handle->pump);
  handle->pump = NULL;
}

static void collected(napi_env env, void *data, void *hint) {
  (void)hint;
  struct handle *handle = data;
  if (handle->pump != NULL) napi_remove_env_cleanup_hook(env, stop, handle);
  stop(handle);
  free(handle);
}

static bool read_optional_descriptor(napi_env env, napi_value value, const char *name, int *fd) {
  return read_namespace(env, value, name, fd);
}

napi_value pump_open(napi_env env, napi_callback_info info) {
  napi_value values[3], object;
  int tun_fd, udp4_fd, udp6_fd;
  if (!read_arguments(env, info, 3, values) || !read_descriptor(env, values[0], "tunFd", &tun_fd) ||
      !read_optional_descriptor(env, values[1], "udp4Fd", &udp4_fd) ||
      !read_optional_descriptor(env, values[2], "udp6Fd", &udp6_fd)) {
    return NULL;
  }
  struct handle *handle = calloc(1, sizeof *handle);
  if (handle == NULL) return throw_failure(env, (struct failure){ENOMEM, "malloc"});
  if (napi_create_object(env, &object) != napi_ok || napi_type_tag_object(env, object, &pump_tag) != napi_ok ||
      napi_wrap(env, object, handle, collected, NULL, NULL) != napi_ok) {
    free(handle);
    return throw_pending(env);
  }
  struct failure failure;
  handle->pump = pump_start(tun_fd, udp4_fd, udp6_fd, &failure);
  if (handle->pump == NULL) return throw_failure(env, failure);
  napi_add_env_cleanup_hook(env, stop, handle);
  return object;
}

// A copy for the pump to keep. False: it has thrown.
static bool copy_rows(napi_env env, napi_value value, const char *name, size_t row_bytes, void **rows, size_t *count) {
  const uint8_t *bytes;
  size_t length;
  if (!read_bytes(env, value, name, &bytes, &length)) return false;
  if (length % row_bytes != 0) {
    napi_throw_range_error(env, NULL, "a table must have whole rows");
    return false;
  }
  *rows = malloc(length > 0 ? length : 1);
  if (*rows == NULL) {
    throw_failure(env, (struct failure){ENOMEM, "malloc"});
    return false;
  }
  memcpy(*rows, bytes, length);
  *count = length / row_bytes;
  return true;
}

napi_value pump_table(napi_env env, napi_callback_info info) {
  napi_value values[3];
  struct table table = {0};
  if (!read_arguments(env, info, 3, values)) return NULL;
  struct handle *handle = unwrap(env, values[0]);
  if (handle == NULL ||
      !copy_rows(env, values[1], "routes", sizeof(struct route), (void **)&table.routes, &table.route_count)) {
    return NULL;
  }
  if (!copy_rows(env, values[2], "senders", 16, (void **)&table.senders, &table.sender_count)) {
    free(table.routes);
    return NULL;
  }
  pump_set_table(handle->pump, table);
  return make_undefined(env);
}

napi_value pump_state(napi_env env, napi_callback_info info) {
  napi_value value, object, runs;
  if (!read_arguments(env, info, 1, &value)) return NULL;
  struct handle *handle = unwrap(env, value);
  if (handle == NULL) return NULL;
  const struct counters *counters = pump_counters(handle->pump);
  const struct {
    const char *name;
    unsigned long long value;
  } fields[] = {
      {"sent", atomic_load(&counters->sent)},           {"received", atomic_load(&counters->received)},
      {"noRoute", atomic_load(&counters->no_route)},    {"badSender", atomic_load(&counters->bad_sender)},
      {"malformed", atomic_load(&counters->malformed)}, {"lost", atomic_load(&counters->lost)},
  };
  if (napi_create_object(env, &object) != napi_ok ||
      napi_get_boolean(env, pump_runs(handle->pump), &runs) != napi_ok ||
      napi_set_named_property(env, object, "runs", runs) != napi_ok) {
    return throw_pending(env);
  }
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    napi_value number;
    if (napi_create_double(env, (double)fields[i].value, &number) != napi_ok ||
        napi_set_named_property(env, object, fields[i].name, number) != napi_ok) {
      return throw_pending(env);
    }
  }
  return object;
}

napi_value pump_close(napi_env env, napi_callback_info info) {
  napi_value value;
  if (!read_arguments(env, info, 1, &value)) return NULL;
  struct handle *handle = unwrap(env, value);
  if (handle == NULL) return NULL;
  napi_remove_env_cleanup_hook(env, stop, handle);
  stop(handle);
  return make_undefined(env);
}

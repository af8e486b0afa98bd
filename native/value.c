// Arguments in, results and errors out. Every check names the argument.
#include "addon.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

napi_value throw_pending(napi_env env) {
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (!pending) {
    const napi_extended_error_info *info = NULL;
    napi_get_last_error_info(env, &info);
    napi_throw_error(env, NULL,
                     info != NULL && info->error_message != NULL ? info->error_message : "Node-API call failed");
  }
  return NULL;
}

static bool refuse(napi_env env, napi_status (*raise)(napi_env, const char *, const char *), const char *name,
                   const char *wanted) {
  char message[160];
  snprintf(message, sizeof message, "%s must be %s", name, wanted);
  raise(env, NULL, message);
  return false;
}

bool read_arguments(napi_env env, napi_callback_info info, size_t count, napi_value *values) {
  size_t given = count;
  if (napi_get_cb_info(env, info, &given, values, NULL, NULL) == napi_ok) return true;
  throw_pending(env);
  return false;
}

bool read_int(napi_env env, napi_value value, const char *name, int min, int max, int *out) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok || number != floor(number)) {
    return refuse(env, napi_throw_type_error, name, "an integer");
  }
  if (number < min || number > max) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, "between %d and %d", min, max);
    return refuse(env, napi_throw_range_error, name, wanted);
  }
  *out = (int)number;
  return true;
}

bool read_descriptor(napi_env env, napi_value value, const char *name, int *out) {
  return read_int(env, value, name, 0, INT_MAX, out);
}

bool read_namespace(napi_env env, napi_value value, const char *name, int *out) {
  return read_int(env, value, name, -1, INT_MAX, out);
}

bool read_bytes(napi_env env, napi_value value, const char *name, const uint8_t **bytes, size_t *length) {
  bool is_array = false;
  napi_typedarray_type type = napi_int8_array;
  void *data = NULL;
  napi_is_typedarray(env, value, &is_array);
  if (!is_array || napi_get_typedarray_info(env, value, &type, length, &data, NULL, NULL) != napi_ok ||
      type != napi_uint8_array) {
    return refuse(env, napi_throw_type_error, name, "a Uint8Array");
  }
  if (*length > MAX_ANSWER_BYTES) return refuse(env, napi_throw_range_error, name, "at most 1 GiB long");
  *bytes = data;
  return true;
}

bool read_path(napi_env env, napi_value value, const char *name, char *path, size_t capacity) {
  napi_valuetype type = napi_undefined;
  napi_typeof(env, value, &type);
  size_t length = 0;
  if (type != napi_string || napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) {
    return refuse(env, napi_throw_type_error, name, "a string");
  }
  if (length == 0 || length >= capacity) {
    return refuse(env, napi_throw_range_error, name, "between 1 and 4095 bytes long");
  }
  size_t written = 0;
  napi_get_value_string_utf8(env, value, path, capacity, &written);
  if (strlen(path) != length) return refuse(env, napi_throw_type_error, name, "a string without NUL");
  return true;
}

bool read_function(napi_env env, napi_value value, const char *name) {
  napi_valuetype type = napi_undefined;
  napi_typeof(env, value, &type);
  return type == napi_function || refuse(env, napi_throw_type_error, name, "a function");
}

napi_value make_undefined(napi_env env) {
  napi_value value = NULL;
  napi_get_undefined(env, &value);
  return value;
}

napi_value make_int(napi_env env, int number) {
  napi_value value = NULL;
  return napi_create_int32(env, number, &value) == napi_ok ? value : throw_pending(env);
}

napi_value make_buffer(napi_env env, const uint8_t *bytes, size_t length) {
  napi_value value = NULL;
  napi_status status = length == 0 ? napi_create_buffer(env, 0, NULL, &value)
                                   : napi_create_buffer_copy(env, length, bytes, NULL, &value);
  return status == napi_ok ? value : throw_pending(env);
}

bool fail(struct failure *failure, const char *syscall) {
  failure->number = errno;
  failure->syscall = syscall;
  return false;
}

napi_value make_system_error(napi_env env, struct failure failure) {
  char description[128];
  char unknown[24];
  char message[256];
  const char *code = errno_name(failure.number);
  if (code == NULL) {
    snprintf(unknown, sizeof unknown, "E%d", failure.number);
    code = unknown;
  }
  snprintf(message, sizeof message, "%s: %s, %s", code,
           strerror_r(failure.number, description, sizeof description), failure.syscall);
  napi_value error = NULL, text = NULL, name = NULL, number = NULL, syscall = NULL;
  napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &text);
  napi_create_string_utf8(env, code, NAPI_AUTO_LENGTH, &name);
  napi_create_string_utf8(env, failure.syscall, NAPI_AUTO_LENGTH, &syscall);
  napi_create_int32(env, failure.number, &number);
  if (napi_create_error(env, name, text, &error) != napi_ok) return NULL;
  napi_set_named_property(env, error, "errno", number);
  napi_set_named_property(env, error, "syscall", syscall);
  return error;
}

napi_value throw_failure(napi_env env, struct failure failure) {
  napi_value error = make_system_error(env, failure);
  if (error == NULL) return throw_pending(env);
  napi_throw(env, error);
  return NULL;
}

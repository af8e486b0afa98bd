// Strings, and one buffer in which the shim's own words are put together.
#ifndef FAIRLEAD_SHIM_TEXT_H
#define FAIRLEAD_SHIM_TEXT_H

#include "shim-kernel.h"

// gcc may call these even where the source does not.
void *memcpy(void *restrict to, const void *restrict from, size_t length) {
  for (size_t i = 0; i < length; i++) ((char *)to)[i] = ((const char *)from)[i];
  return to;
}

void *memset(void *to, int value, size_t length) {
  for (size_t i = 0; i < length; i++) ((char *)to)[i] = (char)value;
  return to;
}

static size_t length_of(const char *text) {
  size_t length = 0;
  while (text[length] != 0) length++;
  return length;
}

static int begins_with(const char *text, const char *prefix) {
  while (*prefix != 0) {
    if (*text++ != *prefix++) return 0;
  }
  return 1;
}

static int same_text(const char *a, const char *b) { return begins_with(a, b) && length_of(a) == length_of(b); }

// The value of a variable, or NULL. `name` ends in "=".
static const char *variable(char **environment, const char *name) {
  for (; *environment != NULL; environment++) {
    if (begins_with(*environment, name)) return *environment + length_of(name);
  }
  return NULL;
}

static char text[4096];
static size_t text_length;

static void add(const char *part) {
  while (*part != 0 && text_length < sizeof text) text[text_length++] = *part++;
}

static void add_number(unsigned long number) {
  char digits[24];
  size_t at = sizeof digits - 1;
  digits[at] = 0;
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number > 0);
  add(digits + at);
}

// A part of a JSON string. Bytes that are not printable ASCII become "?": they come from a path.
static void add_quoted(const char *part) {
  char one[3] = {0};
  for (size_t count = 0; *part != 0 && count < 1024; part++, count++) {
    one[0] = *part >= ' ' && *part < 127 ? *part : '?';
    one[1] = 0;
    if (*part == '"' || *part == '\\') {
      one[0] = '\\';
      one[1] = *part;
    }
    add(one);
  }
}

static void add_errno(long error) {
  switch (error) {
    case 1: add("EPERM"); return;
    case 2: add("ENOENT"); return;
    case 5: add("EIO"); return;
    case 9: add("EBADF"); return;
    case EAGAIN: add("EAGAIN"); return;
    case 13: add("EACCES"); return;
    case EEXIST: add("EEXIST"); return;
    case 20: add("ENOTDIR"); return;
    case 21: add("EISDIR"); return;
    case 22: add("EINVAL"); return;
    case 23: add("ENFILE"); return;
    case 24: add("EMFILE"); return;
    case 27: add("EFBIG"); return;
    case 28: add("ENOSPC"); return;
    case 30: add("EROFS"); return;
    case EPIPE: add("EPIPE"); return;
    case 40: add("ELOOP"); return;
    case 88: add("ENOTSOCK"); return;
    case 91: add("EPROTOTYPE"); return;
    case 104: add("ECONNRESET"); return;
    case ETIMEDOUT: add("ETIMEDOUT"); return;
    case 111: add("ECONNREFUSED"); return;
    case 122: add("EDQUOT"); return;
    default: add("errno "); add_number((unsigned long)error);
  }
}

#endif

// A DEL for which there is no daemon, kept in a directory beside the daemon's socket until one comes: a file with the
// frame of the request for each attachment and plugin. It appears whole, by rename. Pods do not outlive a boot, so
// the directory needs not either.
#ifndef FAIRLEAD_SHIM_QUEUE_H
#define FAIRLEAD_SHIM_QUEUE_H

#include "shim-variables.h"

#define QUEUE_DIRECTORY "cni-queue"
// Many times the pods of a node, and the plugins of each one's chain.
#define MAX_QUEUED 16384u

struct deletion {
  const char *socket_path, *plugin;
  const char *variables, *variables_end;  // NAME=value\0…
  const char *frame;
  size_t frame_length;
  const char *input;  // the end of the frame
};

static __attribute__((noreturn)) void not_queued(const char *directory, const char *why, long error) {
  begin_error(CODE_TRY_AGAIN, "the fairlead node daemon is not available, and the DEL cannot be kept for it");
  add_quoted(directory);
  add(": ");
  add(why);
  if (error != 0) add_errno(error);
  add("; check that `fairlead node` runs on this node; the runtime tries again");
  end_error();
}

// The value, or "".
static const char *variable_of(const struct deletion *deletion, const char *name) {
  for (const char *entry = deletion->variables; entry < deletion->variables_end; entry += length_of(entry) + 1) {
    if (begins_with(entry, name)) return entry + length_of(name);
  }
  return "";
}

static int open_directory(const char *socket_path, char *path) {
  size_t slash = 0;
  for (size_t i = 0; socket_path[i] != 0; i++) {
    if (socket_path[i] == '/') slash = i + 1;
  }
  memcpy(path, socket_path, slash);
  if (slash > 1) {
    path[slash - 1] = 0;
    call(__NR_mkdirat, AT_FDCWD, P(path), 0700, 0, 0);  // /run is empty after a boot
    path[slash - 1] = '/';
  }
  memcpy(path + slash, QUEUE_DIRECTORY, sizeof QUEUE_DIRECTORY);
  long made = call(__NR_mkdirat, AT_FDCWD, P(path), 0700, 0, 0);
  if (made < 0 && made != -EEXIST) not_queued(path, "cannot be made: ", -made);
  long fd = call(__NR_openat, AT_FDCWD, P(path), O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, 0);
  if (fd < 0) not_queued(path, "cannot be opened: ", -fd);
  return (int)fd;
}

static void check_room(int directory, const char *path) {
  static char entries[32 << 10];
  size_t count = 0;
  for (;;) {
    long got = call(__NR_getdents64, directory, P(entries), sizeof entries, 0, 0);
    if (got < 0) not_queued(path, "cannot be read: ", -got);
    if (got == 0) break;
    for (long at = 0; at < got; at += ((struct entry *)(entries + at))->length) count++;
  }
  if (count >= MAX_QUEUED) not_queued(path, "it is full, with 16384 entries", 0);
}

// --- the name: container, interface, and a hash that also covers the plugin and its configuration ---

static char entry_name[128];
static size_t entry_name_length;

static void add_to_name(const char *part, size_t limit) {
  for (; *part != 0 && limit > 0; part++, limit--) {
    char c = *part;
    int is_plain = (c == '.' && entry_name_length > 0) || is_letter_or_digit(c) || c == '-' || c == '_';
    entry_name[entry_name_length++] = is_plain ? c : '_';
  }
  entry_name[entry_name_length] = 0;
}

static void add_hex(uint64_t number) {
  char digits[17] = {0};
  for (int i = 15; i >= 0; i--, number >>= 4) digits[i] = "0123456789abcdef"[number & 15];
  add_to_name(digits, 16);
}

// FNV-1a.
static uint64_t hash(uint64_t sum, const char *bytes, size_t length) {
  for (size_t i = 0; i < length; i++) sum = (sum ^ (unsigned char)bytes[i]) * 0x100000001b3u;
  return sum;
}

static void set_name(const struct deletion *deletion) {
  const char *container = variable_of(deletion, "CNI_CONTAINERID=");
  const char *ifname = variable_of(deletion, "CNI_IFNAME=");
  size_t input_length = (size_t)(deletion->frame + deletion->frame_length - deletion->input);
  uint64_t sum = hash(0xcbf29ce484222325u, container, length_of(container) + 1);
  sum = hash(sum, ifname, length_of(ifname) + 1);
  sum = hash(sum, deletion->plugin, length_of(deletion->plugin) + 1);
  sum = hash(sum, deletion->input, input_length);
  add_to_name(container, 64);
  add_to_name(".", 1);
  add_to_name(ifname, 15);
  add_to_name(".", 1);
  add_hex(sum);
}

static long write_whole(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    long written = call(__NR_write, fd, P(bytes), L(length), 0, 0);
    if (written == -EINTR) continue;
    if (written <= 0) return written == 0 ? EIO : -written;
    bytes += written;
    length -= (size_t)written;
  }
  return 0;
}

// Returns when the DEL is kept, else prints why not and exits.
static void queue_deletion(const struct deletion *deletion) {
  static char path[128];
  int directory = open_directory(deletion->socket_path, path);
  check_room(directory, path);
  set_name(deletion);
  // A name that begins with a dot is not read. The number of the process makes it one of its own.
  text_length = 0;
  add(".");
  add_number((unsigned long)call(__NR_getpid, 0, 0, 0, 0, 0));
  add(".new");
  text[text_length] = 0;
  long fd = call(__NR_openat, directory, P(text), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600, 0);
  if (fd < 0) not_queued(path, "no file can be made in it: ", -fd);
  long error = write_whole((int)fd, deletion->frame, deletion->frame_length);
  call(__NR_close, fd, 0, 0, 0, 0);
  if (error == 0) error = -call(__NR_renameat, directory, P(text), directory, P(entry_name), 0);
  if (error == 0) return;
  call(__NR_unlinkat, directory, P(text), 0, 0, 0);
  not_queued(path, "no file can be written in it: ", error);
}

#endif

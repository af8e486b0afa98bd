// What is said of the variables before the input is read: what the daemon would refuse is refused without it, in the
// same words (cni/request.ts). A verb that nobody knows needs none; whoever serves it says so.
#ifndef FAIRLEAD_SHIM_VARIABLES_H
#define FAIRLEAD_SHIM_VARIABLES_H

#include "shim-answer.h"

#define MAX_IFNAME_BYTES 15

enum { VERB_ADD = 1, VERB_DEL = 2, VERB_CHECK = 4, VERB_GC = 8, VERB_STATUS = 16 };
#define VERBS_OF_ATTACHMENTS (VERB_ADD | VERB_DEL | VERB_CHECK)

// 0: no verb.
static unsigned verb_of(const char *command) {
  static const char verbs[][8] = {"ADD", "DEL", "CHECK", "GC", "STATUS"};
  for (unsigned i = 0; i < sizeof verbs / sizeof *verbs; i++) {
    if (same_text(command, verbs[i])) return 1u << i;
  }
  return 0;
}

static int is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

static __attribute__((noreturn)) void refuse(const char *message, const char *value) {
  begin_error(CODE_ENVIRONMENT, message);
  add_quoted(value);
  end_error();
}

static void check_container_id(const char *id) {
  for (const char *c = id; *c != 0; c++) {
    int is_plain = is_letter_or_digit(*c) || (c != id && (*c == '_' || *c == '.' || *c == '-'));
    if (!is_plain) refuse("invalid characters in containerID", id);
  }
}

static void check_ifname(const char *name) {
  if (length_of(name) > MAX_IFNAME_BYTES) {
    refuse("CNI_IFNAME: interface name is too long", "interface name should be less than 16 characters");
  }
  if (same_text(name, ".") || same_text(name, "..")) refuse("CNI_IFNAME: interface name is . or ..", name);
  for (const char *c = name; *c != 0; c++) {
    // White space beyond ASCII is for the daemon to see.
    if (*c == '/' || *c == ':' || *c == ' ' || (*c >= '\t' && *c <= '\r')) {
      refuse("CNI_IFNAME: interface name contains / or : or whitespace characters", name);
    }
  }
}

static void check_variables(char **environment, unsigned verb) {
  static const char names[][18] = {"CNI_CONTAINERID=", "CNI_NETNS=", "CNI_IFNAME=", "CNI_PATH="};
  static const uint8_t verbs[] = {VERBS_OF_ATTACHMENTS, VERB_ADD | VERB_CHECK, VERBS_OF_ATTACHMENTS, 0xff};
  unsigned missing = 0;
  for (unsigned i = 0; i < sizeof verbs; i++) {
    if ((verbs[i] & verb) == 0) continue;
    const char *value = variable(environment, names[i]);
    if (value == NULL || *value == 0) missing |= 1u << i;
    else if (i == 0) check_container_id(value);
    else if (i == 2) check_ifname(value);
  }
  if (missing == 0) return;
  begin_message(CODE_ENVIRONMENT, "required env variables [");
  for (unsigned i = 0; i < sizeof verbs; i++) {
    if ((missing & (1u << i)) == 0) continue;
    if ((missing & ((1u << i) - 1)) != 0) add(",");
    add(names[i]);
    text_length--;  // the "="
  }
  add("] missing");
  begin_details();
  end_error();
}

#endif

// The kernel's interface as the shim uses it: system calls and entry of x86_64 and aarch64, and the layouts and
// numbers that are the same on both. libc's headers would bring libc's versions of them.
#ifndef FAIRLEAD_SHIM_KERNEL_H
#define FAIRLEAD_SHIM_KERNEL_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

enum { EINTR = 4, EIO = 5, EAGAIN = 11, EEXIST = 17, EPIPE = 32, ETIMEDOUT = 110 };
enum { AT_FDCWD = -100, O_WRONLY = 01, O_CREAT = 0100, O_TRUNC = 01000, O_NONBLOCK = 04000, O_CLOEXEC = 02000000 };
#if defined(__x86_64__)
enum { O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };
#else
enum { O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };
#endif
enum { AF_UNIX = 1, SOCK_STREAM = 1, SOCK_CLOEXEC = 02000000, SOL_SOCKET = 1, SO_SNDTIMEO = 21, SCM_RIGHTS = 1 };
enum { MSG_DONTWAIT = 0x40, MSG_NOSIGNAL = 0x4000 };
enum { POLLIN = 1, POLLOUT = 4 };
enum { SIGPIPE = 13, CLOCK_MONOTONIC = 1 };

struct timespec { int64_t seconds, nanoseconds; };
struct pollfd { int fd; int16_t events, revents; };
struct address { uint16_t family; char path[108]; };
struct vector { const void *base; size_t length; };
struct message {
  void *name; uint32_t name_length;
  struct vector *parts; size_t part_count;
  void *control; size_t control_length;
  uint32_t flags;
};
struct control { size_t length; int level, type; int descriptors[2]; };
struct entry { uint64_t inode; int64_t offset; uint16_t length; uint8_t type; };
struct action { void *handler; unsigned long flags; void *restorer; uint64_t mask; };

#if defined(__x86_64__)
static long call(long number, long a, long b, long c, long d, long e) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
}
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#elif defined(__aarch64__)
static long call(long number, long a, long b, long c, long d, long e) {
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
}
__asm__(".globl _start\n_start: mov x29, #0\n mov x30, #0\n mov x0, sp\n bl start\n");
#else
#error "x86_64 and aarch64 are supported"
#endif

#define L(value) ((long)(value))
#define P(pointer) ((long)(intptr_t)(pointer))

#endif

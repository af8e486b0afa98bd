// Runs CNI plugins as a container runtime does and says how long each took, from before the process was made until
// it had been waited for. Built by bench/cni.ts. Node's own spawn takes longer than the plugin.
//
// cnirun THREADS < jobs > times
// A job is one line of fields parted by tabs: network namespace to run in, file for standard input, program, and
// any number of NAME=value. For each job, in order: nanoseconds, exit code, parted by a space. What a plugin that
// failed has printed goes to standard error.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_FIELDS 32

struct job {
  char *fields[MAX_FIELDS + 1];
  char *input;
  size_t input_length;
  long nanoseconds;
  int exit_code;
};

static struct job *jobs;
static size_t job_count;
static atomic_size_t next_job;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static char *read_file(const char *path, size_t *length) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  char *bytes = malloc(1 << 16);
  ssize_t got = fd < 0 || bytes == NULL ? -1 : read(fd, bytes, 1 << 16);
  if (got < 0) die(path);
  close(fd);
  *length = (size_t)got;
  return bytes;
}

static void read_jobs(void) {
  char *line = NULL;
  size_t room = 0, capacity = 0;
  while (getline(&line, &room, stdin) > 0) {
    if (job_count == capacity) jobs = realloc(jobs, (capacity = capacity * 2 + 64) * sizeof *jobs);
    struct job *job = &jobs[job_count++];
    *job = (struct job){0};
    line[strcspn(line, "\n")] = 0;
    char *rest = strdup(line);
    for (int i = 0; i < MAX_FIELDS && rest != NULL; i++) job->fields[i] = strsep(&rest, "\t");
    if (job->fields[2] == NULL) die("a job without a program");
    job->input = read_file(job->fields[1], &job->input_length);
  }
}

static long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000L + time.tv_nsec;
}

// A thread's namespace is its own, and what it spawns begins there.
static void enter(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) die(path);
  close(fd);
}

static void run(struct job *job) {
  int in[2], out[2], status = 0;
  char output[1 << 16];
  size_t length = 0;
  char *arguments[] = {job->fields[2], NULL};
  posix_spawn_file_actions_t actions;
  pid_t pid;
  long began = now();
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) die("pipe2");
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  if (posix_spawn(&pid, job->fields[2], &actions, NULL, arguments, &job->fields[3]) != 0) die(job->fields[2]);
  close(in[0]);
  close(out[1]);
  // VERSION is answered without reading: the plugin may have ended by now.
  if (write(in[1], job->input, job->input_length) < 0 && errno != EPIPE) die("write");
  close(in[1]);
  for (;;) {
    ssize_t got = read(out[0], output + length, sizeof output - length);
    if (got <= 0) break;
    length += (size_t)got;
  }
  close(out[0]);
  waitpid(pid, &status, 0);
  job->nanoseconds = now() - began;
  posix_spawn_file_actions_destroy(&actions);
  job->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (job->exit_code != 0) fprintf(stderr, "%s: %.*s\n", job->fields[2], (int)length, output);
}

static void *work(void *unused) {
  (void)unused;
  const char *inside = "";
  for (;;) {
    size_t index = atomic_fetch_add(&next_job, 1);
    if (index >= job_count) return NULL;
    struct job *job = &jobs[index];
    if (strcmp(inside, job->fields[0]) != 0) enter(inside = job->fields[0]);
    run(job);
  }
}

int main(int count, char **arguments) {
  int threads = count > 1 ? atoi(arguments[1]) : 1;
  pthread_t ids[64];
  if (threads < 1 || threads > 64) threads = 1;
  signal(SIGPIPE, SIG_IGN);
  read_jobs();
  for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, work, NULL);
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  for (size_t i = 0; i < job_count; i++) printf("%ld %d\n", jobs[i].nanoseconds, jobs[i].exit_code);
  return 0;
}

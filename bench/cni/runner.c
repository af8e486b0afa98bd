// Runs CNI plugins as a container runtime does and says how long each took, from before the process was made until
// it had been waited for. Built by bench/cni.ts. Node's own spawn takes longer than the plugin.
//
// cnirun THREADS < jobs > times
// A job is one line of fields parted by tabs: network namespace to run in, number of plugins of the chain, for each of
// them the file for standard input and the program, and any number of NAME=value. Each plugin but the first gets what
// the one before has printed as `prevResult`. For each job, in order: nanoseconds, exit code, parted by a space. What a
// plugin that failed has printed goes to standard error.
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
#define MAX_PLUGINS 4
#define MAX_BYTES (1 << 16)

struct plugin {
  char *program;
  char *input;
  size_t input_length;
};

struct job {
  char *fields[MAX_FIELDS + 1];
  char *namespace;
  int environment;  // where in the fields it begins
  struct plugin plugins[MAX_PLUGINS];
  int plugin_count;
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
  char *bytes = malloc(MAX_BYTES);
  ssize_t got = fd < 0 || bytes == NULL ? -1 : read(fd, bytes, MAX_BYTES);
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
    char **field = job->fields;
    job->namespace = *field++;
    job->plugin_count = *field == NULL ? 0 : atoi(*field++);
    if (job->plugin_count < 1 || job->plugin_count > MAX_PLUGINS) die("a job without a program");
    for (int i = 0; i < job->plugin_count; i++) {
      struct plugin *plugin = &job->plugins[i];
      if (field[0] == NULL || field[1] == NULL) die("a job without a program");
      plugin->input = read_file(*field++, &plugin->input_length);
      plugin->program = *field++;
    }
    job->environment = (int)(field - job->fields);
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

// The configuration with what the plugin before has printed: both are objects of JSON.
static size_t with_result(char *to, const struct plugin *plugin, const char *result, size_t result_length) {
  size_t length = plugin->input_length;
  while (length > 0 && plugin->input[length - 1] != '}') length--;
  int written = snprintf(to, MAX_BYTES, "%.*s,\"prevResult\":%.*s}", (int)length - 1, plugin->input, (int)result_length,
                         result);
  if (written < 0 || written >= MAX_BYTES) die("a configuration that is too long");
  return (size_t)written;
}

// Runs one plugin to its end. Its output goes to `output`, its length to `length`; returns its exit code.
static int run_plugin(struct job *job, const char *program, const char *input, size_t input_length, char *output,
                      size_t *length) {
  int in[2], out[2], status = 0;
  char *arguments[] = {(char *)program, NULL};
  posix_spawn_file_actions_t actions;
  pid_t pid;
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) die("pipe2");
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  if (posix_spawn(&pid, program, &actions, NULL, arguments, &job->fields[job->environment]) != 0) die(program);
  close(in[0]);
  close(out[1]);
  // VERSION is answered without reading: the plugin may have ended by now.
  if (write(in[1], input, input_length) < 0 && errno != EPIPE) die("write");
  close(in[1]);
  *length = 0;
  for (;;) {
    ssize_t got = read(out[0], output + *length, MAX_BYTES - *length);
    if (got <= 0) break;
    *length += (size_t)got;
  }
  close(out[0]);
  waitpid(pid, &status, 0);
  posix_spawn_file_actions_destroy(&actions);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void run(struct job *job) {
  char output[MAX_BYTES], joined[MAX_BYTES];
  size_t length = 0;
  long began = now();
  for (int i = 0; i < job->plugin_count && job->exit_code == 0; i++) {
    const struct plugin *plugin = &job->plugins[i];
    const char *input = plugin->input;
    size_t input_length = plugin->input_length;
    if (i > 0 && length > 0) {
      input_length = with_result(joined, plugin, output, length);
      input = joined;
    }
    job->exit_code = run_plugin(job, plugin->program, input, input_length, output, &length);
    if (job->exit_code != 0) fprintf(stderr, "%s: %.*s\n", plugin->program, (int)length, output);
  }
  job->nanoseconds = now() - began;
}

static void *work(void *unused) {
  (void)unused;
  const char *inside = "";
  for (;;) {
    size_t index = atomic_fetch_add(&next_job, 1);
    if (index >= job_count) return NULL;
    struct job *job = &jobs[index];
    if (strcmp(inside, job->namespace) != 0) enter(inside = job->namespace);
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

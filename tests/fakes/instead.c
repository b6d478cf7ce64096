/* Preloaded into a server, this starts a fake worker wherever the server starts its worker, which is its own executable
 * with the argument "_worker": instead of that, $FAKE_WORKER_PYTHON with -c and $FAKE_WORKER_CODE, in the same
 * environment. So a server of which nothing else can be exchanged, an executable, is tested over fake workers too. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Between vfork and exec there is nothing but this: no memory is taken, no lock. */
int execve(const char *path, char *const argv[], char *const envp[])
{
    const char *python = getenv("FAKE_WORKER_PYTHON"), *code = getenv("FAKE_WORKER_CODE");
    const char *last = NULL;
    for (int index = 0; argv[index] != NULL; index++) {
        last = argv[index];
    }
    if (python != NULL && code != NULL && last != NULL && strcmp(last, "_worker") == 0) {
        const char *const fake[] = {python, "-c", code, NULL};
        return (int)syscall(SYS_execve, python, fake, envp);
    }
    return (int)syscall(SYS_execve, path, argv, envp);
}

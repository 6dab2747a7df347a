/* Catches this process's own file calls: counts them, fails one, records them.

   A seccomp filter sends each such system call to a signal handler, in libraries that bypass the C library too. The
   handler makes the call itself, by the one instruction that the filter lets pass. The filter stays until the process
   ends, and ends programs that the process starts. x86-64 and 64-bit ARM. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
__asm__(".text\n.hidden make_call\n.globl make_call\n.hidden after_call\n.globl after_call\nmake_call:\n"
        "mov %rdi,%rax\n mov %rsi,%rdi\n mov %rdx,%rsi\n mov %rcx,%rdx\n mov %r8,%r10\n mov %r9,%r8\n mov 8(%rsp),%r9\n"
        "syscall\nafter_call: ret\n");
#define REGISTER(context, i) ((context)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8, REG_R9}[i]])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
__asm__(".text\n.hidden make_call\n.globl make_call\n.hidden after_call\n.globl after_call\nmake_call:\n"
        "mov x8,x0\n mov x0,x1\n mov x1,x2\n mov x2,x3\n mov x3,x4\n mov x4,x5\n mov x5,x6\n"
        "svc #0\nafter_call: ret\n");
#define REGISTER(context, i) ((context)->uc_mcontext.regs[i])
#define RESULT(context) ((context)->uc_mcontext.regs[0])
#endif
long make_call(long number, long a, long b, long c, long d, long e, long f);
extern char after_call[];
#define CALL(number, a, b, c, d) make_call(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

enum { WRITE = 1, SYNC = 2, RENAME = 4, CREATE = 8, FOLDER = 16, REMOVE = 32, READ = 64, MODE = 128, CLOSE = 256 };
enum { ONCE, ALWAYS, HALF, HALF_THEN_ALWAYS };
enum { LONGEST = 1024 };

/* Places of arguments: of a folder's descriptor and a path in it, or of a descriptor; -1 for none. */
struct kind { int number, group; char name[12]; int folder, path, descriptor, folder2, path2; };
static const struct kind KINDS[] = {
#ifdef SYS_open
    {SYS_open, 0, "open", -1, 0, -1, -1, -1}, {SYS_creat, CREATE, "open", -1, 0, -1, -1, -1},
    {SYS_rename, RENAME, "rename", -1, 0, -1, -1, 1}, {SYS_link, CREATE, "link", -1, 0, -1, -1, 1},
    {SYS_symlink, CREATE, "symlink", -1, 1, -1, -1, -1}, {SYS_mkdir, FOLDER, "mkdir", -1, 0, -1, -1, -1},
    {SYS_unlink, REMOVE, "unlink", -1, 0, -1, -1, -1}, {SYS_rmdir, REMOVE, "rmdir", -1, 0, -1, -1, -1},
    {SYS_chmod, MODE, "chmod", -1, 0, -1, -1, -1},
#endif
#ifdef SYS_renameat
    {SYS_renameat, RENAME, "rename", 0, 1, -1, 2, 3},
#endif
    {SYS_openat, 0, "open", 0, 1, -1, -1, -1}, {SYS_openat2, 0, "open", 0, 1, -1, -1, -1},
    {SYS_renameat2, RENAME, "rename", 0, 1, -1, 2, 3}, {SYS_linkat, CREATE, "link", 0, 1, -1, 2, 3},
    {SYS_symlinkat, CREATE, "symlink", 1, 2, -1, -1, -1}, {SYS_mkdirat, FOLDER, "mkdir", 0, 1, -1, -1, -1},
    {SYS_unlinkat, REMOVE, "unlink", 0, 1, -1, -1, -1}, {SYS_fchmodat, MODE, "chmod", 0, 1, -1, -1, -1},
    {SYS_truncate, WRITE, "truncate", -1, 0, -1, -1, -1},
    {SYS_fchmod, MODE, "chmod", -1, -1, 0, -1, -1}, {SYS_write, WRITE, "write", -1, -1, 0, -1, -1},
    {SYS_pwrite64, WRITE, "write", -1, -1, 0, -1, -1}, {SYS_writev, WRITE, "write", -1, -1, 0, -1, -1},
    {SYS_pwritev, WRITE, "write", -1, -1, 0, -1, -1}, {SYS_pwritev2, WRITE, "write", -1, -1, 0, -1, -1},
    {SYS_ftruncate, WRITE, "truncate", -1, -1, 0, -1, -1}, {SYS_fallocate, WRITE, "allocate", -1, -1, 0, -1, -1},
    {SYS_copy_file_range, WRITE, "copy", -1, -1, 2, -1, -1}, {SYS_sendfile, WRITE, "copy", -1, -1, 0, -1, -1},
    {SYS_fsync, SYNC, "sync", -1, -1, 0, -1, -1}, {SYS_fdatasync, SYNC, "sync", -1, -1, 0, -1, -1},
    {SYS_close, CLOSE, "close", -1, -1, 0, -1, -1}, {SYS_read, READ, "read", -1, -1, 0, -1, -1},
    {SYS_pread64, READ, "read", -1, -1, 0, -1, -1}, {SYS_readv, READ, "read", -1, -1, 0, -1, -1},
    {SYS_preadv, READ, "read", -1, -1, 0, -1, -1}, {SYS_getdents64, READ, "list", -1, -1, 0, -1, -1},
};
enum { COUNT = sizeof KINDS / sizeof *KINDS };

static char prefix[LONGEST], failed[LONGEST + 16];
static long target, count;
static int groups, error_number, manner, record_to = -1;
static atomic_flag lock = ATOMIC_FLAG_INIT;

void fail_call(const char *below, long number, int which, int code, int how) {
    while (atomic_flag_test_and_set(&lock)) CALL(SYS_sched_yield, 0, 0, 0, 0);
    strncpy(prefix, below, LONGEST - 1);
    target = number, groups = which, error_number = code, manner = how, count = 0, failed[0] = 0;
    atomic_flag_clear(&lock);
}
void record_calls(int descriptor) { record_to = descriptor; }
long calls(void) { return count; }
const char *failed_call(void) { return failed; }

static char *digits(char *out, long value) {
    char reversed[24];
    int n = 0;
    unsigned long rest = value < 0 ? -(unsigned long)value : (unsigned long)value;
    if (value < 0) *out++ = '-';
    do reversed[n++] = '0' + rest % 10; while (rest /= 10);
    while (n) *out++ = reversed[--n];
    return out;
}

/* Writes an absolute path to `out`; returns 1 if it is below the prefix. */
static int resolve(char *out, int folder, const char *path) {
    long length = 0;
    out[0] = 0;
    if (!prefix[0]) return 0;
    if (!path || path[0] != '/') {
        char link[40] = "/proc/self/cwd";
        if (folder != AT_FDCWD) {
            if (folder < 0) return 0;
            *digits(stpcpy(link, "/proc/self/fd/"), folder) = 0;
        }
        length = CALL(SYS_readlinkat, AT_FDCWD, link, out, LONGEST - 1);
        if (length < 0) return 0;
        out[length] = 0;
        if (path && path[0]) out[length++] = '/';
    }
    if (path) strncpy(out + length, path, LONGEST - 1 - length);
    out[LONGEST - 1] = 0;
    length = strlen(prefix);
    return !strncmp(out, prefix, length) && (!out[length] || out[length] == '/');
}

/* A record is a line "NAME RESULT START SIZE PATH\0OTHER PATH\n", and after a write its SIZE bytes. */
static void record(const struct kind *kind, const long *a, long result, const char *path, const char *other, long flags) {
    char line[2 * LONGEST + 128], *end = line;
    long start = flags, size = 0, vector = 0; /* `start` of a file that is opened: its flags */
    if (!strcmp(kind->name, "write") && result > 0) {
        int number = kind->number, plain = number == SYS_write || number == SYS_writev;
        start = plain ? CALL(SYS_lseek, a[0], 0, SEEK_CUR, 0) - result : a[3];
        vector = number != SYS_write && number != SYS_pwrite64, size = result;
    } else if (!strcmp(kind->name, "truncate")) start = a[1];
    else if (!strcmp(kind->name, "allocate")) start = a[1] & FALLOC_FL_KEEP_SIZE ? 0 : a[2] + a[3];
    long numbers[] = {result, start, size};
    end = stpcpy(end, kind->name);
    for (int i = 0; i < 3; i++) *end++ = ' ', end = digits(end, numbers[i]);
    *end++ = ' ';
    end = stpcpy(stpcpy(end, path) + 1, other);
    *end++ = '\n';
    CALL(SYS_write, record_to, line, end - line, 0);
    if (!vector && size) CALL(SYS_write, record_to, a[1], size, 0);
    for (const struct iovec *part = (const struct iovec *)a[1]; vector && size; part++) {
        long piece = (long)part->iov_len < size ? (long)part->iov_len : size;
        CALL(SYS_write, record_to, part->iov_base, piece, 0);
        size -= piece;
    }
}

/* Makes a call, or half of it. */
static long make(const struct kind *kind, const long *a, int half) {
    long size = a[2];
    struct iovec part;
    if (half && (kind->number == SYS_write || kind->number == SYS_pwrite64)) size = a[2] / 2;
    if (half && !strcmp(kind->name, "write") && size == a[2]) {
        part = *(const struct iovec *)a[1], part.iov_len = part.iov_len / 2;
        return make_call(kind->number, a[0], (long)&part, 1, a[3], a[4], a[5]);
    }
    return make_call(kind->number, a[0], a[1], size, a[3], a[4], a[5]);
}

static long handle(const struct kind *kind, const long *a) {
    char path[LONGEST], other[LONGEST] = "";
    long flags = 0, result;
    int group = kind->group, inside, fails = 0, half = 0;
    inside = kind->descriptor >= 0 ? resolve(path, a[kind->descriptor], NULL)
                                   : resolve(path, kind->folder < 0 ? AT_FDCWD : a[kind->folder], (const char *)a[kind->path]);
    if (kind->path2 >= 0)
        inside |= resolve(other, kind->folder2 < 0 ? AT_FDCWD : a[kind->folder2], (const char *)a[kind->path2]);
    if (!inside) return make(kind, a, 0);
    if (!group) { /* open */
        flags = kind->number == SYS_openat2 ? *(const long *)a[2] : a[kind->path + 1];
        group = flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE ? CREATE : READ;
    }
    if (kind->number == SYS_creat) flags = O_CREAT | O_TRUNC;
    if (kind->number == SYS_unlinkat && a[2] & AT_REMOVEDIR) flags = AT_REMOVEDIR;
    if (group == CLOSE && (CALL(SYS_fcntl, a[0], F_GETFL, 0, 0) & O_ACCMODE) == O_RDONLY) return make(kind, a, 0);
    while (atomic_flag_test_and_set(&lock)) CALL(SYS_sched_yield, 0, 0, 0, 0);
    if (group & groups) {
        count++;
        fails = target > 0 && (count == target || (count > target && (manner == ALWAYS || manner == HALF_THEN_ALWAYS)));
        half = fails && count == target && manner >= HALF && group == WRITE && !strcmp(kind->name, "write");
        if (fails && !failed[0]) {
            stpcpy(stpcpy(stpcpy(failed, kind->name), " "), other[0] ? other : path);
        }
    }
    if (fails && !half) {
        result = -error_number;
        if (group == CLOSE) make(kind, a, 0);
    } else result = make(kind, a, half);
    if (record_to >= 0 && result >= 0 && group != READ && group != CLOSE && group != MODE)
        record(kind, a, result, path, other, flags);
    atomic_flag_clear(&lock);
    return result;
}

static void caught(int number, siginfo_t *info, void *given) {
    ucontext_t *context = given;
    int before = errno;
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = REGISTER(context, i);
    for (int i = 0; i < COUNT; i++)
        if (KINDS[i].number == info->si_syscall) RESULT(context) = handle(&KINDS[i], a);
    errno = before;
    (void)number;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_AT(place) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, place)
#define EQUAL(value, yes, no) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, yes, no)
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)

/* Begins to catch calls, in all threads; returns 0, or the system's error. */
int catch_calls(void) {
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sock_filter filter[COUNT + 16];
    uint64_t passes = (uint64_t)after_call;
    int n = 0, place = offsetof(struct seccomp_data, instruction_pointer);
    filter[n++] = (struct sock_filter)LOAD(arch);
    filter[n++] = (struct sock_filter)EQUAL(ARCH, 1, 0);
    filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)LOAD_AT(place);
    filter[n++] = (struct sock_filter)EQUAL((uint32_t)passes, 0, 3);
    filter[n++] = (struct sock_filter)LOAD_AT(place + 4);
    filter[n++] = (struct sock_filter)EQUAL((uint32_t)(passes >> 32), 0, 1);
    filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)LOAD(nr);
    for (int i = 0; i < COUNT; i++) filter[n++] = (struct sock_filter)EQUAL((uint32_t)KINDS[i].number, COUNT - i, 0);
    filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_TRAP);
    struct sock_fprog program = {.len = n, .filter = filter};
    sigfillset(&action.sa_mask);
    if (sigaction(SIGSYS, &action, NULL) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) ? errno : 0;
}

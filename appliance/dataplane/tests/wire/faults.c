/* Preloaded into an engine of a test: fails one kind of call of libc with the errno that the kernel has
 * for it, for as long as the test says so in a file that both have mapped. The same calls as without it
 * otherwise. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As `wire::faults::Fault`. */
enum { NONE, SOCKET, REPAIR, BIND, CONNECT, OPTIONS, WINDOW, REGISTER, SPEAK, SPEAK_SERVER, TABLE };

struct shared {
	volatile unsigned fault;
	volatile unsigned hits;
};

static unsigned spoken;

static struct shared *shared(void)
{
	static struct shared none, *mapped;
	const char *path = getenv("WEIR_TEST_FAULTS");
	if (!mapped && path) {
		int fd = open(path, O_RDWR | O_CLOEXEC);
		void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof(none), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (fd >= 0)
			close(fd);
		if (at != MAP_FAILED)
			mapped = at;
	}
	return mapped ? mapped : &none;
}

static int fails(unsigned fault, int error)
{
	if (shared()->fault != fault)
		return 0;
	__sync_fetch_and_add(&shared()->hits, 1);
	errno = error;
	return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int socket(int domain, int type, int protocol)
{
	REAL(socket);
	return (domain == AF_INET || domain == AF_INET6) && fails(SOCKET, ENOBUFS) ? -1 : real(domain, type, protocol);
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
	REAL(bind);
	return fails(BIND, ENOMEM) ? -1 : real(fd, address, length);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
	REAL(connect);
	return fails(CONNECT, ENOBUFS) ? -1 : real(fd, address, length);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl);
	return operation == EPOLL_CTL_ADD && fails(REGISTER, ENOSPC) ? -1 : real(epoll, operation, fd, event);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	REAL(setsockopt);
	if (level == SOL_TCP && name == TCP_REPAIR) {
		int on = *(const int *)value;
		if (on == 1 && fails(REPAIR, EPERM))
			return -1;
		if (on == -1 && fails(SPEAK, ENOMEM))
			return -1;
		/* The client's socket speaks first, then the server's. */
		if (on == -1 && (__sync_add_and_fetch(&spoken, 1) & 1) == 0 && fails(SPEAK_SERVER, ENOMEM))
			return -1;
	}
	if (level == SOL_TCP && name == TCP_REPAIR_OPTIONS && fails(OPTIONS, ENOMEM))
		return -1;
	if (level == SOL_TCP && name == TCP_REPAIR_WINDOW && fails(WINDOW, ENOBUFS))
		return -1;
	return real(fd, level, name, value, length);
}

long syscall(long number, ...)
{
	REAL(syscall);
	long a[6];
	va_list arguments;
	va_start(arguments, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(arguments, long);
	va_end(arguments);
	/* BPF_PROG_TEST_RUN: a change of a flow's state. */
	if (number == SYS_bpf && a[0] == 10 && fails(TABLE, ENOMEM))
		return -1;
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* <linux/if.h> asks a C library for this one type. */
#pragma once
struct sockaddr {
	unsigned short sa_family;
	char sa_data[14];
};
#define AF_UNSPEC 0
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17

/* Network and host byte order; constants are converted when compiling. */
#pragma once

#define ___bpf_swap16(x) ((__u16)((((__u16)(x)) << 8) | (((__u16)(x)) >> 8)))
#define ___bpf_swap32(x)                                                          \
	((__u32)((((__u32)(x) & 0x000000ffU) << 24) | (((__u32)(x) & 0x0000ff00U) << 8) | \
		 (((__u32)(x) & 0x00ff0000U) >> 8) | (((__u32)(x) & 0xff000000U) >> 24)))
#define ___bpf_swap64(x)                                                          \
	((__u64)(((__u64)___bpf_swap32((__u64)(x) & 0xffffffffULL) << 32) |       \
		 ___bpf_swap32((__u64)(x) >> 32)))

#define ___bpf_swab(bits, x)                                                      \
	(__builtin_constant_p(x) ? ___bpf_swap##bits(x) : __builtin_bswap##bits(x))

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ___bpf_to_be(bits, x) ___bpf_swab(bits, x)
#define ___bpf_to_le(bits, x) (x)
#else
#define ___bpf_to_be(bits, x) (x)
#define ___bpf_to_le(bits, x) ___bpf_swab(bits, x)
#endif

#define bpf_htons(x) ___bpf_to_be(16, x)
#define bpf_ntohs(x) ___bpf_to_be(16, x)
#define bpf_htonl(x) ___bpf_to_be(32, x)
#define bpf_ntohl(x) ___bpf_to_be(32, x)
#define bpf_cpu_to_be64(x) ___bpf_to_be(64, x)
#define bpf_be64_to_cpu(x) ___bpf_to_be(64, x)
#define bpf_cpu_to_be32(x) ___bpf_to_be(32, x)
#define bpf_be32_to_cpu(x) ___bpf_to_be(32, x)
#define bpf_cpu_to_be16(x) ___bpf_to_be(16, x)
#define bpf_be16_to_cpu(x) ___bpf_to_be(16, x)
#define bpf_cpu_to_le64(x) ___bpf_to_le(64, x)
#define bpf_le64_to_cpu(x) ___bpf_to_le(64, x)
#define bpf_cpu_to_le32(x) ___bpf_to_le(32, x)
#define bpf_le32_to_cpu(x) ___bpf_to_le(32, x)
#define bpf_cpu_to_le16(x) ___bpf_to_le(16, x)
#define bpf_le16_to_cpu(x) ___bpf_to_le(16, x)

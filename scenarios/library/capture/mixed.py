#!/usr/bin/env python3
"""Writes mixed.pcap: what a host sees on a busy and slightly broken network, one frame a case.

The frames are listed in the order of the file; the comments of mixed.ron give their numbers.
"""
import ipaddress
import struct
from pathlib import Path

A, B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
V4A, V4B = (ipaddress.ip_address(x).packed for x in ("192.0.2.1", "192.0.2.2"))
V6A, V6B = (ipaddress.ip_address(x).packed for x in ("2001:db8::1", "2001:db8::2"))


def csum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def eth(proto, payload, src=B, dst=A):
    return dst + src + struct.pack("!H", proto) + payload


def ip4(proto, payload, src=V4B, dst=V4A, ihl=5, length=None):
    length = 20 + len(payload) if length is None else length
    head = struct.pack("!BBHHHBBH", 4 << 4 | ihl, 0, length, 1, 0, 64, proto, 0) + src + dst
    return head[:10] + struct.pack("!H", csum(head)) + head[12:] + payload


def ip6(first, payload, src=V6B, dst=V6A):
    return struct.pack("!IHBB", 6 << 28, len(payload), first, 64) + src + dst + payload


def pseudo(src, dst, proto, length):
    return src + dst + struct.pack("!II", length, proto)


def summed(segment, at, src, dst, proto):
    value = csum(pseudo(src, dst, proto, len(segment)) + segment) or 0xFFFF
    return segment[:at] + struct.pack("!H", value) + segment[at + 2:]


def tcp(sport, dport, seq, ack, flags, data=b"", src=V4B, dst=V4A):
    head = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65535, 0, 0)
    return summed(head + data, 16, src, dst, 6)


def udp(sport, dport, data, src=V4B, dst=V4A):
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0)
    return summed(head + data, 6, src, dst, 17)


def icmp(kind, data):
    head = struct.pack("!BBHHH", kind, 0, 0, 7, 1)
    return head[:2] + struct.pack("!H", csum(head + data)) + head[4:] + data


def icmp6(kind, data):
    return summed(struct.pack("!BBHI", kind, 0, 0, 0) + data, 2, V6B, V6A, 58)


def ext(following, body=b"\1\4\0\0\0\0"):
    return struct.pack("!BB", following, (len(body) + 2) // 8 - 1) + body


def arp(op):
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, op) + B + V4B + b"\0" * 6 + V4A
    return eth(0x0806, body + b"\0" * 18)


QUESTION = b"\7example\3org\0" + struct.pack("!HH", 1, 1)
QUERY = struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + QUESTION
ANSWER = struct.pack("!HHHHHH", 0x1234, 0x8180, 1, 1, 0, 0) + QUESTION
ANSWER += struct.pack("!HHHIH", 0xC00C, 1, 1, 300, 4) + V4A
UDP6 = udp(4000, 9, b"six", V6B, V6A)
SYN, ACK, PSH, FIN = 2, 16, 8, 1

FRAMES = [
    eth(0x0800, ip4(6, tcp(40000, 80, 1000, 0, SYN))),
    eth(0x0800, ip4(6, tcp(80, 40000, 9000, 1001, SYN | ACK))),
    eth(0x0800, ip4(6, tcp(40000, 80, 1001, 9001, ACK))),
    eth(0x0800, ip4(6, tcp(40000, 80, 1001, 9001, PSH | ACK, b"GET / HTTP/1.0\r\n\r\n"))),
    eth(0x0800, ip4(6, tcp(40000, 80, 1019, 9001, FIN | ACK))),
    eth(0x0800, ip4(17, udp(5353, 53, QUERY))),
    eth(0x0800, ip4(17, udp(53, 5353, ANSWER))),
    eth(0x0800, ip4(1, icmp(8, b"abcdefgh"))),
    eth(0x0800, ip4(1, icmp(0, b"abcdefgh"))),
    arp(1),
    arp(2),
    # hop-by-hop, destination options, UDP
    eth(0x86DD, ip6(0, ext(60) + ext(17) + UDP6)),
    # a first and a later fragment
    eth(0x86DD, ip6(44, struct.pack("!BBHI", 17, 0, 1, 99) + UDP6)),
    eth(0x86DD, ip6(44, struct.pack("!BBHI", 17, 0, 16 | 0, 99) + b"rest")),
    # routing header with no segments left, TCP
    eth(0x86DD, ip6(43, ext(6, b"\0\0" + b"\0" * 4) + tcp(40001, 443, 1, 0, SYN, b"", V6B, V6A))),
    # neighbour solicitation
    eth(0x86DD, ip6(58, icmp6(135, V6A))),
    # 802.1Q, UDP
    eth(0x8100, struct.pack("!HH", 100, 0x0800) + ip4(17, udp(4000, 9, b"tagged"))),
    # cut in the IPv4 header
    eth(0x0800, ip4(17, udp(4000, 9, b"cut")))[:24],
    # a header length below the least
    eth(0x0800, ip4(17, udp(4000, 9, b"ihl"), ihl=3)),
    # longer than the frame
    eth(0x0800, ip4(17, udp(4000, 9, b"long"), length=900)),
    # the second extension header reaches past the end
    eth(0x86DD, ip6(0, ext(60) + struct.pack("!BB", 17, 30) + b"\0" * 6)),
    # nine extension headers, one more than anybody follows
    eth(0x86DD, ip6(60, ext(60) * 8 + ext(17) + UDP6)),
    # LLDP
    eth(0x88CC, bytes.fromhex("0207040200000000020403020001")),
    # a runt
    A + B[:4],
]

if __name__ == "__main__":
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for n, frame in enumerate(FRAMES):
        out += struct.pack("<IIII", 1, n * 250, len(frame), len(frame)) + frame
    Path(__file__).with_suffix(".pcap").write_bytes(out)

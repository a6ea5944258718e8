#!/usr/bin/env python3
"""Writes https-and-scan.pcapng: a session with DNS, ARP, ICMP and TLS over TCP, taken on the
inside, and a port scan in frames 41..=58."""
import struct
from ipaddress import IPv4Address as A

CLIENT, SERVER, DNS = A("10.0.0.5").packed, A("203.0.113.9").packed, A("203.0.113.53").packed
INSIDE, OUTSIDE = bytes.fromhex("020000000005"), bytes.fromhex("0200000000fe")
frames = []


def csum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def add(ms, body, ethertype=0x0800, out=True):
    macs = OUTSIDE + INSIDE if out else INSIDE + OUTSIDE
    frames.append((ms, macs + struct.pack(">H", ethertype) + body))


def ip(src, dst, proto, body):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), len(frames), 0x4000, 64, proto, 0, src, dst)
    return head[:10] + struct.pack(">H", csum(head)) + head[12:] + body


def pseudo(src, dst, proto, body):
    return csum(src + dst + struct.pack(">BBH", 0, proto, len(body)) + body)


def udp(ms, src, sport, dst, dport, body):
    seg = struct.pack(">HHHH", sport, dport, 8 + len(body), 0) + body
    seg = seg[:6] + struct.pack(">H", pseudo(src, dst, 17, seg)) + seg[8:]
    add(ms, ip(src, dst, 17, seg), out=src == CLIENT)


def tcp(ms, src, sport, dst, dport, seq, ack, flags, body=b"", options=b""):
    doff = 5 + len(options) // 4
    seg = struct.pack(">HHIIBBHHH", sport, dport, seq, ack, doff << 4, flags, 64240, 0, 0) + options + body
    seg = seg[:16] + struct.pack(">H", pseudo(src, dst, 6, seg)) + seg[18:]
    add(ms, ip(src, dst, 6, seg), out=src == CLIENT)


def arp(ms, op, sha, spa, tha, tpa, out):
    add(ms, struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, op, sha, spa, tha, tpa), 0x0806, out)


FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
QUERY = b"\x12\x34\x01\x00\x00\x01" + b"\0" * 6 + b"\x07example\x03com\x00\x00\x01\x00\x01"
arp(0, 1, INSIDE, CLIENT, b"\0" * 6, A("10.0.0.1").packed, True)
arp(1, 2, OUTSIDE, A("10.0.0.1").packed, INSIDE, CLIENT, False)
udp(5, CLIENT, 5353, DNS, 53, QUERY)
udp(9, DNS, 53, CLIENT, 5353, QUERY + b"\xc0\x0c\x00\x01\x00\x01\0\0\0\x3c\x00\x04" + SERVER)
mine, theirs = 1000, 0x70000000
MSS = b"\x02\x04\x05\xb4\x04\x02\x01\x01"
tcp(10, CLIENT, 40112, SERVER, 443, mine, 0, SYN, options=MSS)
tcp(30, SERVER, 443, CLIENT, 40112, theirs, mine + 1, SYN | ACK, options=MSS)
mine, theirs = mine + 1, theirs + 1
tcp(31, CLIENT, 40112, SERVER, 443, mine, theirs, ACK)
hello = b"\x16\x03\x01\x02\x00" + bytes(range(200))
tcp(33, CLIENT, 40112, SERVER, 443, mine, theirs, PSH | ACK, hello)
mine += len(hello)
tcp(52, SERVER, 443, CLIENT, 40112, theirs, mine, ACK)
for n in range(11):
    data = b"\x17\x03\x03" + struct.pack(">H", 1000 + n) + bytes((n + i) & 255 for i in range(1000 + n))
    tcp(60 + 20 * n, SERVER, 443, CLIENT, 40112, theirs, mine, PSH | ACK, data)
    theirs += len(data)
    tcp(61 + 20 * n, CLIENT, 40112, SERVER, 443, mine, theirs, ACK)
tcp(300, CLIENT, 40112, SERVER, 443, mine, theirs, FIN | ACK)
tcp(320, SERVER, 443, CLIENT, 40112, theirs, mine + 1, FIN | ACK)
tcp(321, CLIENT, 40112, SERVER, 443, mine + 1, theirs + 1, ACK)
for ms, kind, src, dst in [(400, 8, CLIENT, SERVER), (420, 0, SERVER, CLIENT)]:
    echo = struct.pack(">BBHHH", kind, 0, 0, 7, 1) + b"ping"
    echo = echo[:2] + struct.pack(">H", csum(echo)) + echo[4:]
    add(ms, ip(src, dst, 1, echo), out=src == CLIENT)
add(450, bytes.fromhex("6000000000003aff") + b"\xfe\x80" + b"\0" * 29 + b"\x05", 0x86DD)
# Nobody asked for these two.
udp(500, A("198.51.100.1").packed, 53, CLIENT, 9999, b"unasked")
tcp(510, A("198.51.100.2").packed, 80, CLIENT, 4000, 7, 9, ACK)
# A query with the tuple of the first, two seconds later.
udp(2050, CLIENT, 5353, DNS, 53, QUERY)
for n in range(18):
    port = [21, 22, 23, 25, 80, 110, 135, 139, 143, 443, 445, 993, 995, 1723, 3306, 3389, 5900, 8080][n]
    tcp(2060 + n, SERVER, 61000, CLIENT, port, 1, 0, SYN)
assert len(frames) == 58, len(frames)


def block(kind, body):
    body += b"\0" * (-len(body) % 4)
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


with open("https-and-scan.pcapng", "wb") as out:
    out.write(block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)))
    out.write(block(1, struct.pack("<HHI", 1, 0, 0)))
    for ms, data in frames:
        us = 1_700_000_000_000_000 + ms * 1000
        head = struct.pack("<IIIII", 0, us >> 32, us & 0xFFFFFFFF, len(data), len(data))
        out.write(block(6, head + data))

//! What is always checked of a frame that leaves: lengths and checksums.

/// One's complement sum of big-endian 16-bit words, folded.
#[must_use]
pub fn csum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

/// Ethertype and offset of the network layer, VLAN tags skipped.
#[must_use]
pub fn network_layer(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    loop {
        let ethertype = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
        if !matches!(ethertype, 0x8100 | 0x88a8) {
            return Some((ethertype, at + 2));
        }
        at += 4;
    }
}

/// What is wrong with a frame, one sentence each; empty when all is right or not understood.
#[must_use]
pub fn check_packet(frame: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    match network_layer(frame) {
        Some((0x0800, at)) => ipv4(&frame[at..], &mut found),
        Some((0x86dd, at)) => ipv6(&frame[at..], &mut found),
        _ => {}
    }
    found
}

fn ipv4(p: &[u8], found: &mut Vec<String>) {
    if p.len() < 20 || p[0] >> 4 != 4 {
        found.push("IPv4: header is cut or has another version".into());
        return;
    }
    let (ihl, total) = (usize::from(p[0] & 15) * 4, usize::from(be16(p, 2)));
    if ihl < 20 || total < ihl || total > p.len() {
        found.push(format!("IPv4: length {total} with header {ihl}, frame has {}", p.len()));
        return;
    }
    if csum(&[&p[..ihl]]) != 0xffff {
        found.push(format!("IPv4: header checksum {:#06x} is wrong", be16(p, 10)));
    }
    let fragment = be16(p, 6) & 0x3fff != 0;
    let body = &p[ihl..total];
    if fragment {
        return;
    }
    let pseudo = [&p[12..20], &[0, p[9]], &(body.len() as u16).to_be_bytes()].concat();
    match p[9] {
        4 => ipv4(body, found),
        41 => ipv6(body, found),
        proto => transport(proto, body, &pseudo, found),
    }
}

fn ipv6(p: &[u8], found: &mut Vec<String>) {
    if p.len() < 40 || p[0] >> 4 != 6 {
        found.push("IPv6: header is cut or has another version".into());
        return;
    }
    let total = usize::from(be16(p, 4));
    if 40 + total > p.len() {
        found.push(format!("IPv6: payload length {total}, frame has {}", p.len() - 40));
        return;
    }
    let (mut next, mut body) = (p[6], &p[40..40 + total]);
    while matches!(next, 0 | 43 | 60) && body.len() >= 8 {
        let len = (usize::from(body[1]) + 1) * 8;
        if len > body.len() {
            found.push("IPv6: extension header is cut".into());
            return;
        }
        next = body[0];
        body = &body[len..];
    }
    let mut pseudo = p[8..40].to_vec();
    pseudo.extend((body.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, next]);
    match next {
        4 => ipv4(body, found),
        41 => ipv6(body, found),
        _ => transport(next, body, &pseudo, found),
    }
}

fn transport(proto: u8, b: &[u8], pseudo: &[u8], found: &mut Vec<String>) {
    let (name, min, at) = match proto {
        1 => ("ICMP", 4, 2),
        6 => ("TCP", 20, 16),
        17 => ("UDP", 8, 6),
        58 => ("ICMPv6", 4, 2),
        _ => return,
    };
    if b.len() < min {
        found.push(format!("{name}: header is cut"));
        return;
    }
    if proto == 17 {
        let len = usize::from(be16(b, 4));
        if len != b.len() {
            found.push(format!("UDP: length {len}, packet has {}", b.len()));
            return;
        }
        if be16(b, 6) == 0 {
            return;
        }
    }
    let pseudo = if proto == 1 { &[][..] } else { pseudo };
    if csum(&[pseudo, b]) != 0xffff {
        found.push(format!("{name}: checksum {:#06x} is wrong", be16(b, at)));
    }
    if proto == 17 && be16(b, 2) == 4789 && b.len() > 16 {
        found.extend(check_packet(&b[16..]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp() -> Vec<u8> {
        let mut f = vec![0u8; 12];
        f.extend([0x08, 0x00]);
        f.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        f.extend([0, 7, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4]);
        let ip = !csum(&[&f[14..34]]);
        f[24..26].copy_from_slice(&ip.to_be_bytes());
        let sum = !csum(&[&f[26..34], &[0, 17, 0, 12], &f[34..]]);
        f[40..42].copy_from_slice(&sum.to_be_bytes());
        f
    }

    #[test]
    fn every_flipped_byte_of_a_checked_header_is_found() {
        assert_eq!(check_packet(&udp()), Vec::<String>::new());
        for at in (14..23).chain(24..46) {
            let mut f = udp();
            f[at] ^= 0x10;
            assert!(!check_packet(&f).is_empty(), "byte {at}");
        }
    }
}

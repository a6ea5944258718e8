//! Receive side scaling: the Toeplitz hash that network hardware computes.

/// The key that drivers and the Microsoft specification use by default.
const KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Toeplitz hash of an input of at most 36 bytes.
fn toeplitz(input: &[u8]) -> u32 {
    let mut hash = 0u32;
    let mut window = u32::from_be_bytes([KEY[0], KEY[1], KEY[2], KEY[3]]);
    for (i, byte) in input.iter().enumerate() {
        for bit in (0..8).rev() {
            if byte >> bit & 1 == 1 {
                hash ^= window;
            }
            let next = KEY.get(i + 4).map_or(0, |k| k >> bit & 1);
            window = window << 1 | u32::from(next);
        }
    }
    hash
}

/// Hash of a frame over addresses and, for TCP and UDP that is no fragment, ports.
#[must_use]
pub(crate) fn frame_hash(frame: &[u8]) -> u32 {
    let Some((ethertype, l3)) = super::check::network_layer(frame) else { return 0 };
    let packet = &frame[l3..];
    let (addresses, l4, proto) = match ethertype {
        0x0800 if packet.len() >= 20 => {
            let fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
            let l4 = usize::from(packet[0] & 15) * 4;
            (&packet[12..20], if fragment { usize::MAX } else { l4 }, packet[9])
        }
        0x86dd if packet.len() >= 40 => (&packet[8..40], 40, packet[6]),
        _ => return 0,
    };
    let mut input = addresses.to_vec();
    if matches!(proto, 6 | 17)
        && let Some(ports) = l4.checked_add(4).and_then(|end| packet.get(l4..end))
    {
        input.extend(ports);
    }
    toeplitz(&input)
}

#[cfg(test)]
mod tests {
    use super::toeplitz;

    /// Verification suite of the RSS specification: 66.9.149.187:2794 to 161.142.100.80:1766.
    #[test]
    fn published_vector() {
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&input), 0x51cc_c178);
        assert_eq!(toeplitz(&input[..8]), 0x323e_8fc2);
    }
}

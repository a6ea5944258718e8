//! Damage to bytes of any format.

use bpf::insn::generate::Rng;

/// Numbers at the edges of fields.
#[rustfmt::skip]
pub(super) const EDGES: &[u32] = &[
    0, 1, 2, 7, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x10000, 0x00ff_ffff, 0x0100_0000,
    0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff,
];

/// First bytes of BTF and BTF.ext in both byte orders, where damage tells most.
const MAGICS: &[[u8; 3]] = &[[0x9f, 0xeb, 1], [0xeb, 0x9f, 1]];
/// Bytes of no format.
const NOISE_MAX: u32 = 4096;

/// A place in a list; 0 when there is none.
pub(super) fn place(rng: &mut Rng, len: usize) -> usize {
    rng.below(u32::try_from(len).unwrap_or(u32::MAX)) as usize
}

/// Places where a table begins that other bytes refer into.
fn landmarks(bytes: &[u8]) -> Vec<usize> {
    let found = bytes.windows(3).enumerate().filter(|(_, w)| MAGICS.iter().any(|m| m == w));
    found.map(|(at, _)| at).chain([0]).collect()
}

/// One change; once in a hundred nothing is left but the beginning.
pub fn damage(out: &mut Vec<u8>, rng: &mut Rng) {
    if out.is_empty() {
        return;
    }
    if rng.one_in(100) {
        return noise(out, rng);
    }
    let at = if rng.one_in(3) {
        let marks = landmarks(out);
        (rng.pick(&marks) + place(rng, 96)).min(out.len() - 1)
    } else {
        place(rng, out.len())
    };
    change(out, at, rng);
}

fn change(out: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    match rng.below(9) {
        0 => out.truncate(at),
        1 => out[at] ^= 1 << rng.below(8),
        2 => out[at] = rng.next_u64() as u8,
        3 | 4 => {
            let (at, edge) = (at & !3, rng.pick(EDGES));
            let word = if rng.one_in(2) { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let end = (at + 4).min(out.len());
            out[at..end].copy_from_slice(&word[..end - at]);
        }
        5 => {
            let end = (at + place(rng, 64)).min(out.len());
            out.drain(at..end);
        }
        6 => {
            let from = place(rng, out.len());
            let piece = out[from..(from + place(rng, 64)).min(out.len())].to_vec();
            out.splice(at..at, piece);
        }
        7 => {
            let end = (at + place(rng, 32)).min(out.len());
            out[at..end].fill(rng.next_u64() as u8);
        }
        _ => {
            let other = place(rng, out.len());
            out.swap(at, other);
        }
    }
}

/// Bytes of no format, behind a good beginning or not.
fn noise(out: &mut Vec<u8>, rng: &mut Rng) {
    out.truncate(rng.pick(&[0, 4, 16, 64]));
    out.extend((0..rng.below(NOISE_MAX)).map(|_| rng.next_u64() as u8));
}

//! What snapshots have of RAM: pages as they were, shared between snapshots, with their hashes.

use std::sync::{Arc, OnceLock};

use super::PAGE;

/// Pages per chunk of a snapshot: chunks are shared between snapshots as a whole.
pub(super) const CHUNK: usize = 256;

/// A page as snapshots keep it, with its hash once someone has asked.
///
/// Without `bytes` the page is what RAM has: it is in [`Past::saved`], and clean. Whoever is
/// about to change that page of RAM fills it before.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) bytes: OnceLock<Box<[u8]>>,
    hash: OnceLock<u64>,
}

/// `None` is a page of zeroes.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    pub(super) pages: Vec<Option<Arc<Page>>>,
    hash: OnceLock<u64>,
}

impl Chunk {
    /// The sum over its pages, which RAM has as they are: the order in which they were written does
    /// not matter.
    pub(super) fn hash(&self, ram: &[u8]) -> u64 {
        *self.hash.get_or_init(|| {
            let kept = self.pages.iter().zip(ram.chunks_exact(PAGE)).zip(1..);
            let kept = kept.filter_map(|((page, bytes), nth)| Some((page.as_ref()?, bytes, nth)));
            kept.fold(0, |sum: u64, (page, bytes, nth)| {
                let hash = *page.hash.get_or_init(|| content(bytes));
                sum.wrapping_add(if hash == 0 { 0 } else { mixed(hash ^ mixed(nth)) })
            })
        })
    }
}

/// Hash of a page; 0 for zeroes, so that a page never written and one written with zeroes agree.
fn content(page: &[u8]) -> u64 {
    let mut lanes = [0u64; 4];
    for words in page.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(words.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            *lane = (*lane ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    lanes.into_iter().fold(0, |sum: u64, lane| sum.rotate_left(17) ^ lane)
}

/// The finaliser of SplitMix64.
pub(super) fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What snapshots know of RAM, and which pages have changed since the last one.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// Contents at the last snapshot; `None` is a page of zeroes.
    pub(super) saved: Vec<Arc<Chunk>>,
    pub(super) dirty: Vec<bool>,
    pub(super) dirty_list: Vec<u32>,
}

impl Past {
    /// Of so many pages of zeroes, whole chunks.
    pub(super) fn new(pages: usize) -> Past {
        let chunk = Arc::new(Chunk { pages: vec![None; CHUNK], hash: OnceLock::new() });
        let saved = vec![chunk; pages / CHUNK];
        Past { saved, dirty: vec![false; pages], dirty_list: Vec::new() }
    }

    /// A page of RAM is about to be written.
    pub(super) fn mark(&mut self, page: usize, ram: &[u8]) {
        if !self.dirty[page] {
            self.dirty[page] = true;
            self.dirty_list.push(page as u32);
            self.keep(page, ram);
        }
    }

    /// Copies a clean page for the snapshots that have it, if there are any.
    pub(super) fn keep(&mut self, page: usize, ram: &[u8]) {
        let chunk = &mut self.saved[page / CHUNK];
        let alone = Arc::get_mut(chunk).is_some_and(|c| {
            c.pages[page % CHUNK].as_mut().is_some_and(|p| Arc::get_mut(p).is_some())
        });
        if let Some(kept) = chunk.pages[page % CHUNK].as_ref().filter(|_| !alone) {
            kept.bytes.get_or_init(|| ram[page * PAGE..][..PAGE].into());
        }
    }

    /// All pages are clean: what RAM has is what is saved.
    pub(super) fn settle(&mut self) {
        for page in self.dirty_list.drain(..) {
            let page = page as usize;
            let chunk = Arc::make_mut(&mut self.saved[page / CHUNK]);
            chunk.pages[page % CHUNK] = Some(Arc::default());
            chunk.hash = OnceLock::new();
            self.dirty[page] = false;
        }
    }
}

//! Traffic generators: flow `i` is the same in every run, the order comes from the seed.

use kernel_model::Kernel;
use rand_core::Rng;
use scenarios::leaf::Is;
use scenarios::schema::packet::{Dist, Field, Vary};
use scenarios::schema::{Flows, Layer};
use scenarios::{Span, Spanned};

/// The layers of flow `n`: varied fields count up from those of `like`, one after the other.
fn layers(like: &[Layer], vary: &[Vary], n: u64) -> Vec<Layer> {
    let mut out = like.to_vec();
    let mut left = n;
    for one in vary {
        // Ports wrap below 65536; addresses take what is left in one step.
        let span = match one {
            Vary::SrcPort | Vary::DstPort => 60_000,
            Vary::SrcIp | Vary::DstIp | Vary::FlowLabel => 1 << 20,
        };
        let step = if vary.len() == 1 { left } else { left % span.min(250) };
        left /= span.min(250);
        out.iter_mut().for_each(|l| bump(l, *one, step));
    }
    out
}

fn add<T: Copy>(f: &mut Field<T>, with: impl Fn(T) -> T, zero: T) {
    let old = match f.as_ref().map(|s| &s.v) {
        Some(Is::Value(v)) => *v,
        _ => zero,
    };
    *f = Some(Spanned { v: Is::Value(with(old)), span: Span::default() });
}

fn bump(layer: &mut Layer, vary: Vary, by: u64) {
    let v4 = |a: std::net::Ipv4Addr| (u32::from(a).wrapping_add(by as u32)).into();
    let v6 = |a: std::net::Ipv6Addr| (u128::from(a).wrapping_add(by.into())).into();
    let port = |p: u16| p.wrapping_add(by as u16).max(1);
    match (layer, vary) {
        (Layer::Ip4 { src, .. }, Vary::SrcIp) => add(src, v4, std::net::Ipv4Addr::UNSPECIFIED),
        (Layer::Ip4 { dst, .. }, Vary::DstIp) => add(dst, v4, std::net::Ipv4Addr::UNSPECIFIED),
        (Layer::Ip6 { src, .. }, Vary::SrcIp) => add(src, v6, std::net::Ipv6Addr::UNSPECIFIED),
        (Layer::Ip6 { dst, .. }, Vary::DstIp) => add(dst, v6, std::net::Ipv6Addr::UNSPECIFIED),
        (Layer::Ip6 { flow, .. }, Vary::FlowLabel) => add(flow, |f| f.wrapping_add(by as u32), 0),
        (Layer::Udp { sport, .. } | Layer::Tcp { sport, .. }, Vary::SrcPort) => {
            add(sport, port, 1024);
        }
        (Layer::Udp { dport, .. } | Layer::Tcp { dport, .. }, Vary::DstPort) => {
            add(dport, port, 1024);
        }
        _ => {}
    }
}

/// The flows of a generator, picked by popularity.
#[derive(Debug)]
pub(super) struct Pick {
    /// Layers of the first.
    like: Vec<Layer>,
    count: u64,
    /// Sums of the weights up to each flow; none when all are alike.
    sums: Vec<f64>,
}

impl Pick {
    /// `like` is the generator's own, with what `Like` stands for.
    pub(super) fn new(flows: &Flows, like: Vec<Layer>) -> Pick {
        let count = u64::from(flows.count.v.max(1));
        let mut total = 0.0;
        let mut up_to = |s: f64, i: u64| {
            total += ((i + 1) as f64).powf(-s);
            total
        };
        let sums = match flows.popularity {
            Dist::Zipf(s) => (0..count).map(|i| up_to(s, i)).collect(),
            _ => Vec::new(),
        };
        Pick { like, count, sums }
    }

    /// The name of a field that no layer of the generator has.
    pub(super) fn idle(&self, flows: &Flows) -> Option<&'static str> {
        let changes = |v: &Vary| layers(&self.like, &[*v], 1) != self.like;
        flows.vary.iter().find(|v| !changes(v)).map(|v| v.name())
    }

    /// The layers of a flow.
    pub(super) fn layers(&self, flows: &Flows, flow: u64) -> Vec<Layer> {
        layers(&self.like, &flows.vary, flow)
    }

    /// The flow of frame `n`.
    pub(super) fn flow(&self, k: &mut Kernel, n: u64) -> u64 {
        let Some(total) = self.sums.last() else { return n % self.count };
        let at = f64::from(k.rng.traffic.next_u32()) / f64::from(u32::MAX) * total;
        (self.sums.partition_point(|sum| *sum < at) as u64).min(self.count - 1)
    }
}

/// The size a frame is padded to, if the flow gives one.
pub(super) fn size(k: &mut Kernel, flows: &Flows) -> Option<usize> {
    match &flows.size {
        Dist::Fixed(b) => Some(b.n as usize),
        Dist::Uniform(a, b) => {
            let span = b.n.saturating_sub(a.n) + 1;
            Some((a.n + k.rng.traffic.next_u64() % span) as usize)
        }
        // 7 : 4 : 1 of small, middle and large frames.
        Dist::Imix => Some(match k.rng.traffic.next_u32() % 12 {
            0..=6 => 64,
            7..=10 => 570,
            _ => 1514,
        }),
        Dist::Even | Dist::Zipf(_) => None,
    }
}

//! Round trip times (`tcp_rtt_estimator`, `tcp_set_rto`).

use super::ops::{self, RTT_CB, RTT_FLAG};
use super::segment::before;
use super::{Step, TcpFrame, timer};
use crate::cpu::{CpuId, Frame};
use crate::{Kernel, field};

/// `tcp_rto_min_us`.
const RTO_MIN_US: u64 = 200_000;

/// `tcp_ack_update_rtt` of what the path has measured.
pub(super) fn update(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (sk, m) = (f.sk, f.rtt_us.take()?);
    let min = field!("tcp_sock", "rtt_min");
    let least = k.get(sk, min);
    if least == 0 || least > m {
        k.set(sk, min, m.max(1));
    }
    let (mdev, mdev_max) = (field!("tcp_sock", "mdev_us"), field!("tcp_sock", "mdev_max_us"));
    let (rttvar, rtt_seq) = (field!("tcp_sock", "rttvar_us"), field!("tcp_sock", "rtt_seq"));
    let before_it = k.get(sk, field!("tcp_sock", "srtt_us"));
    let next = k.get(sk, field!("tcp_sock", "snd_nxt"));
    let (srtt, tell);
    if before_it == 0 {
        srtt = m << 3;
        tell = true;
        k.set(sk, mdev, m << 1);
        let var = (m << 1).max(RTO_MIN_US);
        k.set(sk, rttvar, var);
        k.set(sk, mdev_max, var);
        k.set(sk, rtt_seq, next);
    } else {
        let mut error = m as i64 - (before_it >> 3) as i64;
        srtt = (before_it as i64 + error) as u64;
        let smaller = error < 0;
        error = error.abs() - (k.get(sk, mdev) >> 2) as i64;
        if smaller && error > 0 {
            error >>= 3;
        }
        let dev = (k.get(sk, mdev) as i64 + error) as u64;
        k.set(sk, mdev, dev);
        if dev > k.get(sk, mdev_max) {
            k.set(sk, mdev_max, dev);
            let var = dev.max(k.get(sk, rttvar));
            k.set(sk, rttvar, var);
        }
        let una = k.u32_at(sk, field!("tcp_sock", "snd_una"));
        tell = before(k.u32_at(sk, rtt_seq), una);
        if tell {
            let (most, var) = (k.get(sk, mdev_max), k.get(sk, rttvar));
            if most < var {
                k.set(sk, rttvar, var - ((var - most) >> 2));
            }
            k.set(sk, rtt_seq, next);
            k.set(sk, mdev_max, RTO_MIN_US);
        }
    }
    f.rtt_us = Some(srtt);
    f.first([Step::Act(store)]);
    if tell && k.tcp_cb_flag(sk, RTT_FLAG) {
        f.first([ops::call(sk, RTT_CB, &[m as u32, srtt as u32])]);
    }
    None
}

/// `tcp_set_rto`, and the smoothed time.
fn store(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let srtt = f.rtt_us.take()?.max(1);
    k.set(f.sk, field!("tcp_sock", "srtt_us"), srtt);
    let us = (srtt >> 3) + k.get(f.sk, field!("tcp_sock", "rttvar_us"));
    let rto = us.div_ceil(1000).min(timer::RTO_MAX_MS);
    k.set(f.sk, field!("tcp_sock", "inet_conn.icsk_rto"), rto);
    k.set(f.sk, field!("tcp_sock", "inet_conn.icsk_backoff"), 0);
    None
}

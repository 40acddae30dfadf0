//! Pure parsers of what the kernel prints: bytes in, values out, `None` for what is not there.
//!
//! Formats: proc_stat(5), proc_loadavg(5), proc_meminfo(5), proc_pid_net(5), proc_uptime(5),
//! proc_pid_statm(5), proc_sys_fs(5). No input makes them panic or allocate more than it is long.

use vpn_node_protocol::metrics::{Load, Memory, OpenFiles};

/// CPU time of all CPUs since boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CpuTimes {
    pub(super) busy: u64,
    pub(super) idle: u64,
}

/// Byte counters of one interface or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) rx: u64,
    pub(super) tx: u64,
}

/// The first line of `/proc/stat`: `cpu user nice system idle iowait irq softirq steal …`.
///
/// `guest` and `guest_nice` are already inside `user` and `nice`. Time stolen by a hypervisor is
/// not idle: the host wanted to run.
pub(super) fn stat(text: &[u8]) -> Option<CpuTimes> {
    let line = text.split(|b| *b == b'\n').next()?;
    let mut fields = words(line);
    if fields.next()? != b"cpu" {
        return None;
    }
    let (mut busy, mut idle) = (0_u64, 0_u64);
    for index in 0..8 {
        // Kernels before 2.6.11 print fewer columns; the first four are always there.
        let Some(value) = fields.next() else {
            if index < 4 {
                return None;
            }
            break;
        };
        let value = number(value)?;
        let side = if matches!(index, 3 | 4) {
            &mut idle
        } else {
            &mut busy
        };
        *side = side.saturating_add(value);
    }
    Some(CpuTimes { busy, idle })
}

/// `/proc/loadavg`: `0.72 0.70 0.38 1/95 11859`.
pub(super) fn loadavg(text: &[u8]) -> Option<Load> {
    let mut fields = words(text);
    let mut next = || hundredths(fields.next()?);
    Some(Load {
        one: next()?,
        five: next()?,
        fifteen: next()?,
    })
}

/// `/proc/meminfo`: `MemTotal:  24684092 kB`, one field a line.
pub(super) fn meminfo(text: &[u8]) -> Option<Memory> {
    let (mut total, mut available, mut swap_total, mut swap_free) = (None, None, None, None);
    for line in text.split(|b| *b == b'\n') {
        let mut fields = words(line);
        let slot = match fields.next() {
            Some(b"MemTotal:") => &mut total,
            Some(b"MemAvailable:") => &mut available,
            Some(b"SwapTotal:") => &mut swap_total,
            Some(b"SwapFree:") => &mut swap_free,
            _ => continue,
        };
        *slot = fields
            .next()
            .and_then(number)
            .map(|kib| kib.saturating_mul(1024));
    }
    Some(Memory {
        total_bytes: total?,
        available_bytes: available?,
        swap_total_bytes: swap_total.unwrap_or(0),
        swap_free_bytes: swap_free.unwrap_or(0),
    })
}

/// `/proc/net/dev`: two lines of headings, then `  eth0: rx_bytes … (8 columns) tx_bytes …`.
///
/// Names are what the kernel says, without white space; lines that do not parse are left out.
pub(super) fn net_dev(text: &[u8]) -> impl Iterator<Item = (&[u8], Traffic)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        // The kernel forbids ':' and '/' in names, old aliases ("eth0:1") have no line here.
        let colon = line.iter().position(|b| *b == b':')?;
        let name = words(&line[..colon]).next()?;
        let mut fields = words(&line[colon + 1..]);
        let rx = number(fields.next()?)?;
        // Seven more columns of the receiving side come first.
        let tx = number(fields.nth(7)?)?;
        Some((name, Traffic { rx, tx }))
    })
}

/// `/proc/sys/fs/file-nr`: `allocated unused max`.
pub(super) fn file_nr(text: &[u8]) -> Option<OpenFiles> {
    let mut fields = words(text);
    let allocated = number(fields.next()?)?;
    let unused = number(fields.next()?)?;
    Some(OpenFiles {
        allocated: allocated.saturating_sub(unused),
        max: number(fields.next()?)?,
    })
}

/// `/proc/uptime`: `8345.23 15000.10`; whole seconds of the first.
pub(super) fn uptime(text: &[u8]) -> Option<u64> {
    number(words(text).next()?.split(|b| *b == b'.').next()?)
}

/// `/proc/self/statm`: `size resident …`; resident pages.
pub(super) fn statm(text: &[u8]) -> Option<u64> {
    number(words(text).nth(1)?)
}

/// A `temp` file of thermal or hwmon: thousandths of a degree. A sensor that is off reports
/// nonsense (-273 °C, 255 °C and beyond): then there is no temperature.
pub(super) fn temperature(text: &[u8]) -> Option<i32> {
    const PLAUSIBLE: std::ops::RangeInclusive<i32> = -60_000..=200_000;
    let text = std::str::from_utf8(words(text).next()?).ok()?;
    text.parse().ok().filter(|t| PLAUSIBLE.contains(t))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

/// Decimal digits only; no sign, no overflow.
fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// `12.34` → 1234. The kernel always prints two digits after the point.
fn hundredths(word: &[u8]) -> Option<u32> {
    let point = word.iter().position(|b| *b == b'.')?;
    let (whole, fraction) = (number(&word[..point])?, &word[point + 1..]);
    if fraction.len() != 2 {
        return None;
    }
    u32::try_from(whole.checked_mul(100)?.checked_add(number(fraction)?)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cpu_times() {
        let text = b"cpu  100 5 50 1000 40 1 2 3 77 0\ncpu0 1 2 3 4\n";
        assert_eq!(
            stat(text),
            Some(CpuTimes {
                busy: 161,
                idle: 1040
            })
        );
        assert_eq!(stat(b"cpu 1 2 3 4"), Some(CpuTimes { busy: 6, idle: 4 }));
        assert_eq!(stat(b"cpu 1 2 3"), None);
        assert_eq!(stat(b"cpu0 1 2 3 4\n"), None);
        assert_eq!(stat(b""), None);
    }

    #[test]
    fn load() {
        let expected = Load {
            one: 72,
            five: 1070,
            fifteen: 38,
        };
        assert_eq!(loadavg(b"0.72 10.70 0.38 1/95 11859\n"), Some(expected));
        assert_eq!(loadavg(b"0.72 0.70"), None);
        assert_eq!(loadavg(b"0.7 0.7 0.7"), None);
        assert_eq!(loadavg(b"99999999999.00 0.00 0.00"), None);
    }

    #[test]
    fn memory() {
        let text = b"MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    600 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n";
        let expected = Memory {
            total_bytes: 1_024_000,
            available_bytes: 614_400,
            swap_total_bytes: 8192,
            swap_free_bytes: 4096,
        };
        assert_eq!(meminfo(text), Some(expected));
        assert_eq!(
            meminfo(b"MemTotal: 1 kB\n"),
            None,
            "no MemAvailable before Linux 3.14"
        );
    }

    #[test]
    fn interfaces() {
        let text = b"Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0\n  eth0:206954064   11358    0    0    0     0          0         0   813389    6712    0    0    0     0       0          0\n bad0: x\n";
        let found: Vec<_> = net_dev(text).collect();
        assert_eq!(
            found,
            [
                (&b"lo"[..], Traffic { rx: 3193, tx: 3193 }),
                (
                    &b"eth0"[..],
                    Traffic {
                        rx: 206_954_064,
                        tx: 813_389
                    }
                ),
            ]
        );
    }

    #[test]
    fn the_small_ones() {
        let files = OpenFiles {
            allocated: 499,
            max: 2_466_177,
        };
        assert_eq!(file_nr(b"499\t0\t2466177\n"), Some(files));
        assert_eq!(file_nr(b"499\t0\n"), None);
        assert_eq!(uptime(b"8345.23 15000.10\n"), Some(8345));
        assert_eq!(statm(b"1000 250 100 1 0 50 0\n"), Some(250));
        assert_eq!(temperature(b"45500\n"), Some(45_500));
        assert_eq!(temperature(b"-5000\n"), Some(-5000));
        assert_eq!(temperature(b"-273150\n"), None);
        assert_eq!(temperature(b"hot\n"), None);
    }

    #[test]
    fn numbers_do_not_overflow() {
        assert_eq!(number(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(number(b"18446744073709551616"), None);
        assert_eq!(number(b"-1"), None);
        let huge = b"cpu 18446744073709551615 18446744073709551615 1 18446744073709551615 9";
        assert_eq!(
            stat(huge),
            Some(CpuTimes {
                busy: u64::MAX,
                idle: u64::MAX
            })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(text in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = (stat(&text), loadavg(&text), meminfo(&text), file_nr(&text));
            let _ = (uptime(&text), statm(&text), temperature(&text), net_dev(&text).count());
        }

        #[test]
        fn nearly_right_text_does_not_either(text in "(cpu|MemTotal:|eth0:|[0-9]{1,25}|[.: \n\t-]){0,60}") {
            let text = text.as_bytes();
            let _ = (stat(text), loadavg(text), meminfo(text), file_nr(text));
            let _ = (uptime(text), statm(text), temperature(text), net_dev(text).count());
        }

        #[test]
        fn counters_come_back_as_printed(rx in any::<u64>(), tx in any::<u64>(), name in "[a-z]{1,15}") {
            let line = format!("{name}: {rx} 1 2 3 4 5 6 7 {tx} 1 2 3 4 5 6 7\n");
            let found: Vec<_> = net_dev(line.as_bytes()).collect();
            prop_assert_eq!(found, [(name.as_bytes(), Traffic { rx, tx })]);
        }
    }
}

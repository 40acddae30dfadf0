use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

struct FakeHost {
    dir: TempDir,
}

impl FakeHost {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn usual() -> Self {
        let host = Self::new();
        host.put("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1\n");
        host.put("proc/loadavg", "0.10 0.20 0.30 1/95 11859\n");
        host.put("proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 50 kB\n");
        host.put("proc/sys/fs/file-nr", "499\t0\t2466177\n");
        host.put("proc/uptime", "8345.23 15000.10\n");
        host.put("proc/self/statm", "1000 250 100 1 0 50 0\n");
        host.traffic(&[("lo", 9, 9), ("eth0", 1000, 500), ("wg0", 900, 400)]);
        host.put("sys/class/net/eth0/device/uevent", "");
        host.put("sys/class/net/wg0/uevent", "");
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn traffic(&self, interfaces: &[(&str, u64, u64)]) {
        let lines: String = interfaces
            .iter()
            .map(|(name, rx, tx)| format!("{name}: {rx} 0 0 0 0 0 0 0 {tx} 0 0 0 0 0 0 0\n"))
            .collect();
        self.put("proc/net/dev", format!("Inter-| x\n face |y\n{lines}"));
    }

    fn sampler(&self, disks: &[String]) -> Sampler {
        Sampler::open(&self.path("proc"), &self.path("sys"), disks)
    }
}

fn at(seconds: u64) -> Now {
    Now::default().after(Duration::from_secs(seconds))
}

#[test]
fn a_first_sample_has_everything_but_rates() {
    let host = FakeHost::usual();
    let disk = host.dir.path().to_str().unwrap().to_owned();
    let sample = host.sampler(std::slice::from_ref(&disk)).sample(at(10));
    assert_eq!(sample.cpu_permille, None);
    assert_eq!(sample.load.unwrap().fifteen, 30);
    assert_eq!(sample.memory.unwrap().available_bytes, 50 * 1024);
    assert_eq!(sample.open_files.unwrap().allocated, 499);
    assert_eq!(sample.uptime_s, Some(8345));
    assert_eq!(sample.agent_rss_bytes, Some(250 * page_bytes()));
    assert_eq!(sample.temperature_millidegrees, None);
    assert_eq!(sample.network.unwrap().rx_bytes, 1000);
    assert_eq!(sample.network.unwrap().rx_bytes_per_s, None);
    assert_eq!(sample.disks[0].mount, disk);
    assert!(sample.disks[0].total_bytes >= sample.disks[0].free_bytes);
}

#[test]
fn the_second_sample_has_rates_of_the_time_between() {
    let host = FakeHost::usual();
    let mut sampler = host.sampler(&[]);
    sampler.sample(at(10));
    host.put("proc/stat", "cpu  125 0 100 875 0 0 0 0 0 0\n");
    host.traffic(&[("lo", 9, 9), ("eth0", 3000, 600), ("wg0", 9000, 400)]);
    let sample = sampler.sample(at(30));
    assert_eq!(sample.cpu_permille, Some(250));
    assert_eq!(sample.network.unwrap().rx_bytes_per_s, Some(100));
    assert_eq!(sample.network.unwrap().tx_bytes_per_s, Some(5));
}

#[test]
fn counters_that_go_back_and_time_that_stands_still_give_no_rate() {
    let host = FakeHost::usual();
    let mut sampler = host.sampler(&[]);
    sampler.sample(at(10));
    let still = sampler.sample(at(10));
    assert_eq!(still.network.unwrap().rx_bytes_per_s, None);
    assert_eq!(still.cpu_permille, None, "no tick passed");
    host.traffic(&[("eth0", 10, 501)]);
    let back = sampler.sample(at(11)).network.unwrap();
    assert_eq!(back.rx_bytes_per_s, None);
    assert_eq!(back.tx_bytes_per_s, Some(1));
}

#[test]
fn without_a_card_all_interfaces_but_the_loopback_count() {
    let host = FakeHost::usual();
    fs::remove_dir_all(host.path("sys")).unwrap();
    let network = host.sampler(&[]).sample(at(1)).network.unwrap();
    assert_eq!((network.rx_bytes, network.tx_bytes), (1900, 900));
}

#[test]
fn a_host_that_shows_nothing_gives_an_empty_sample() {
    let host = FakeHost::new();
    let mut sampler = host.sampler(&["/nowhere/at/all".to_owned()]);
    assert_eq!(sampler.sample(at(1)), SystemMetrics::default());
}

#[test]
fn the_cpu_package_wins_over_other_sensors() {
    let host = FakeHost::usual();
    host.put("sys/class/thermal/thermal_zone0/type", "acpitz\n");
    host.put("sys/class/thermal/thermal_zone0/temp", "27800\n");
    host.put("sys/class/thermal/thermal_zone1/type", "iwlwifi_1\n");
    host.put("sys/class/thermal/thermal_zone1/temp", "99000\n");
    host.put("sys/class/hwmon/hwmon3/name", "k10temp\n");
    host.put("sys/class/hwmon/hwmon3/temp1_input", "45500\n");
    let mut sampler = host.sampler(&[]);
    assert_eq!(sampler.sample(at(1)).temperature_millidegrees, Some(45_500));
    host.put("sys/class/hwmon/hwmon3/temp1_input", "46000\n");
    assert_eq!(sampler.sample(at(2)).temperature_millidegrees, Some(46_000));
}

#[test]
fn hostile_files_are_bounded_and_absent() {
    let host = FakeHost::usual();
    let noise = vec![0xFF; 65536];
    for path in [
        "stat",
        "loadavg",
        "meminfo",
        "uptime",
        "self/statm",
        "sys/fs/file-nr",
    ] {
        host.put(&format!("proc/{path}"), &noise);
    }
    host.put(
        "proc/net/dev",
        "../../etc: 1 0 0 0 0 0 0 0 1 0\n..: 1 0 0 0 0 0 0 0 1 0\n",
    );
    host.put("sys/class/thermal/thermal_zone0/type", &noise);
    let mut sampler = host.sampler(&[]);
    let sample = sampler.sample(at(1));
    let network = sample.network.unwrap();
    assert_eq!((network.rx_bytes, network.tx_bytes), (2, 2));
    assert_eq!(
        SystemMetrics {
            network: None,
            ..sample
        },
        SystemMetrics::default()
    );
}

#[test]
fn thousands_of_interfaces_stay_within_the_bound() {
    let host = FakeHost::usual();
    let names: Vec<String> = (0..20_000).map(|i| format!("ppp{i}")).collect();
    let mut interfaces = vec![("eth0", 7, 7)];
    interfaces.extend(names.iter().map(|name| (name.as_str(), 1, 1)));
    host.traffic(&interfaces);
    let mut sampler = host.sampler(&[]);
    assert_eq!(sampler.sample(at(1)).network.unwrap().rx_bytes, 7);
    assert!(sampler.buffer.len() <= 256 * 1024);
}

#[test]
fn this_machine_can_be_sampled() {
    let mut sampler = Sampler::open(Path::new("/proc"), Path::new("/sys"), &["/".to_owned()]);
    let sample = sampler.sample(at(1));
    assert_eq!(sample.disks.len(), 1);
    assert!(sample.agent_rss_bytes.is_some_and(|rss| rss > 100_000));
}

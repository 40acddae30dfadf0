//! The thread that tells systemd that the agent makes progress, and says what does not.
//!
//! A thread of its own, so that a loop that stands still can still be named: the watchdog of systemd
//! kills, and the next start tells nobody why. Its log lines have another one: writing to a journal
//! whose socket is full waits, and systemd would hear nothing of an agent that gets on.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::Duration;

use super::progress::{Limits, Part, Progress, Stuck};
use crate::core::journal;
use crate::host::{clock, systemd};

/// How often it looks, at least; also how soon a hang over its limit is said.
const LOOKS_EVERY: Duration = Duration::from_secs(5);
/// One piece of work of an agent that stops may take this long, then systemd is asked for no more
/// time: half of what the whole stop may take.
const STOPPING_STEP: Duration = Duration::from_secs(30);
/// For how long systemd is asked to wait on: three looks, so that a lost one costs nothing.
const EXTENDS_BY: Duration = Duration::from_secs(15);
/// A thread that does nothing but sleep looks this late only where the whole host stood still (a
/// paused machine, no CPU): what seems to hang then had no time either, and gets some.
const STOOD_STILL: Duration = Duration::from_secs(15);

/// Words that may wait for the log. Each is about another hang, of half a minute at least; what finds
/// no room is lost to the log, and nothing else.
const WORDS_QUEUED: usize = 16;

/// Tells the thread what the agent is about.
pub(super) struct Watchdog(Sender<Stage>);

enum Stage {
    /// It stops, and may take so long for it.
    Stopping(Duration),
}

impl Watchdog {
    /// Starts the thread; it ends when this is dropped.
    ///
    /// # Errors
    /// The kernel gives no thread.
    pub(super) fn start(progress: Progress) -> io::Result<Self> {
        let every = systemd::watchdog_interval().map_or(LOOKS_EVERY, |half| half.min(LOOKS_EVERY));
        let (stages, receiver) = mpsc::channel();
        let watch = Watch {
            limits: Limits::default(),
            hangs: None,
            looked_at: None,
            stops_until: None,
        };
        let log = Log::start(write)?;
        thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || {
                let progress = &progress;
                watch.run(progress, &receiver, every, |word| {
                    say(word, progress);
                    log.tell(word);
                });
            })?;
        Ok(Self(stages))
    }

    /// The agent stops: from now on systemd is asked for time while there is progress, but no
    /// longer than `most`.
    pub(super) fn stopping(&self, most: Duration) {
        // The thread ends after this end of the channel does.
        let _ = self.0.send(Stage::Stopping(most));
    }
}

/// What the thread has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Everything makes progress.
    Alive,
    /// This does not; `news` the first time.
    Hangs { stuck: Stuck, news: bool },
    /// It does again.
    GoesOn(Part),
    /// The stop takes longer, and goes on.
    Extend,
}

/// To systemd and to the loop.
fn say(word: Word, progress: &Progress) {
    // Said without `notify`, whose remark on a failure goes to the log.
    let _ = match word {
        Word::Alive => systemd::notify_watchdog(),
        Word::Hangs { stuck, .. } => systemd::notify_status(&format!("hangs: {stuck}")),
        Word::GoesOn(_) => {
            progress.give_status_line_back();
            Ok(())
        }
        Word::Extend => systemd::notify_extend_timeout(EXTENDS_BY),
    };
}

/// The thread that writes what is news into the log, for as long as this lives.
struct Log(SyncSender<Word>);

impl Log {
    fn start(write: impl Fn(Word) + Send + 'static) -> io::Result<Self> {
        let (words, told) = mpsc::sync_channel(WORDS_QUEUED);
        thread::Builder::new()
            .name("watchdog-log".into())
            .spawn(move || told.into_iter().for_each(write))?;
        Ok(Self(words))
    }

    /// Does not wait.
    fn tell(&self, word: Word) {
        if matches!(word, Word::Hangs { news: true, .. } | Word::GoesOn(_)) {
            let _ = self.0.try_send(word);
        }
    }
}

fn write(word: Word) {
    match word {
        Word::Hangs { stuck, .. } => tracing::error!(
            message_id = %journal::HANGS,
            part = stuck.part.as_str(),
            seconds = stuck.for_.as_secs(),
            "{stuck}; systemd is told nothing until it goes on, and starts the agent again if that takes longer"
        ),
        Word::GoesOn(part) => tracing::warn!(
            message_id = %journal::GOES_ON,
            part = part.as_str(), "what hung goes on"
        ),
        Word::Alive | Word::Extend => {}
    }
}

/// What the thread remembers.
struct Watch {
    limits: Limits,
    hangs: Option<Part>,
    looked_at: Option<Duration>,
    stops_until: Option<Duration>,
}

impl Watch {
    fn run(
        mut self,
        progress: &Progress,
        stages: &Receiver<Stage>,
        every: Duration,
        say: impl Fn(Word),
    ) {
        loop {
            let now = clock::monotonic();
            for word in self.look(progress.stuck(&self.limits()), now) {
                say(word);
            }
            match stages.recv_timeout(every) {
                Ok(Stage::Stopping(most)) => self.stops_until = Some(clock::monotonic() + most),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A stop waits for loop and disk. Not for requests: one that the controller holds on purpose
    /// is nearly always under way, and is left to its end.
    fn limits(&self) -> Limits {
        match self.stops_until {
            Some(_) => Limits {
                exchange: self.limits.exchange,
                ..Limits::all(STOPPING_STEP)
            },
            None => self.limits,
        }
    }

    /// What there is to say at `now`, when `stuck` is what has taken too long.
    fn look(&mut self, stuck: Option<Stuck>, now: Duration) -> Vec<Word> {
        let before = self.hangs;
        let looked_at = self.looked_at.replace(now).unwrap_or(now);
        let stood_still = now.saturating_sub(looked_at) > STOOD_STILL;
        let stuck = stuck.filter(|_| before.is_some() || !stood_still);
        self.hangs = stuck.map(|stuck| stuck.part);
        match (before, stuck) {
            (_, Some(stuck)) => vec![Word::Hangs {
                stuck,
                news: before != Some(stuck.part),
            }],
            (goes_on, None) => {
                let extend = self.stops_until.is_some_and(|until| now < until);
                let alive = [Word::Alive].into_iter();
                let alive = alive.chain(extend.then_some(Word::Extend));
                goes_on.map(Word::GoesOn).into_iter().chain(alive).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch {
            limits: Limits::default(),
            hangs: None,
            looked_at: None,
            stops_until: None,
        }
    }

    fn stuck(part: Part, seconds: u64) -> Option<Stuck> {
        let for_ = Duration::from_secs(seconds);
        Some(Stuck { part, for_ })
    }

    #[test]
    fn systemd_hears_nothing_while_something_hangs_and_the_log_hears_it_once() {
        let mut watch = watch();
        let now = Duration::ZERO;
        assert_eq!(watch.look(None, now), [Word::Alive]);
        let hangs = |part, seconds, news| {
            let stuck = stuck(part, seconds).unwrap();
            [Word::Hangs { stuck, news }]
        };
        let mut look = |part, seconds| watch.look(stuck(part, seconds), now);
        assert_eq!(look(Part::Disk, 121), hangs(Part::Disk, 121, true));
        assert_eq!(look(Part::Disk, 126), hangs(Part::Disk, 126, false));
        assert_eq!(look(Part::Loop, 31), hangs(Part::Loop, 31, true));
        let words = watch.look(None, now);
        assert_eq!(words, [Word::GoesOn(Part::Loop), Word::Alive]);
        assert_eq!(watch.look(None, now), [Word::Alive]);
    }

    #[test]
    fn a_stop_gets_time_while_it_goes_on_and_only_so_long() {
        let mut watch = watch();
        watch.stops_until = Some(Duration::from_secs(60));
        let at = Duration::from_secs;
        assert_eq!(watch.look(None, at(59)), [Word::Alive, Word::Extend]);
        let words = watch.look(stuck(Part::Disk, 31), at(59));
        assert!(matches!(words[..], [Word::Hangs { news: true, .. }]));
        let words = watch.look(None, at(60));
        assert_eq!(words, [Word::GoesOn(Part::Disk), Word::Alive]);
    }

    #[test]
    fn a_request_that_the_controller_holds_does_not_hang_in_a_stop() {
        let mut watch = watch();
        watch.stops_until = Some(Duration::from_secs(60));
        let limits = watch.limits();
        assert_eq!(limits.exchange, Limits::default().exchange);
        assert_eq!(
            (limits.disk, limits.event_loop),
            (STOPPING_STEP, STOPPING_STEP)
        );
    }

    #[test]
    fn a_host_that_stood_still_is_fed_once_and_then_looked_at_again() {
        let mut watch = watch();
        let at = Duration::from_secs;
        assert_eq!(watch.look(None, at(0)), [Word::Alive]);
        let paused = stuck(Part::Loop, 600);
        assert_eq!(watch.look(paused, at(600)), [Word::Alive]);
        let words = watch.look(paused, at(605));
        assert!(matches!(words[..], [Word::Hangs { news: true, .. }]));
        // What hung before goes on hanging, however late the look is.
        let words = watch.look(paused, at(700));
        assert!(matches!(words[..], [Word::Hangs { news: false, .. }]));
    }

    #[test]
    fn a_log_that_takes_nothing_holds_nobody_up_and_gets_the_first_news_later() {
        let (go_on, waits) = mpsc::channel::<()>();
        let (written, read) = mpsc::channel();
        let log = Log::start(move |word| {
            let _ = waits.recv();
            written.send(word).unwrap();
        })
        .unwrap();
        // What is said every few seconds takes no room from what happens once.
        for _ in 0..10 * WORDS_QUEUED {
            log.tell(Word::Alive);
        }
        for part in [Part::Disk, Part::Loop] {
            let stuck = stuck(part, 121).unwrap();
            log.tell(Word::Hangs { stuck, news: true });
            log.tell(Word::Hangs { stuck, news: false });
            log.tell(Word::GoesOn(part));
        }
        for _ in 0..10 * WORDS_QUEUED {
            log.tell(Word::GoesOn(Part::Exchange));
        }
        drop(go_on);
        drop(log);
        let told: Vec<Word> = read.iter().collect();
        assert!(matches!(
            told[..4],
            [
                Word::Hangs { news: true, .. },
                Word::GoesOn(Part::Disk),
                Word::Hangs { news: true, .. },
                Word::GoesOn(Part::Loop)
            ]
        ));
        assert!(told.len() <= WORDS_QUEUED + 1, "{}", told.len());
    }

    /// The words of a thread that looks at `progress` with limits of a tenth of a second.
    fn words(progress: Progress) -> (Watchdog, Receiver<Word>) {
        let (stages, receiver) = mpsc::channel();
        let (words, told) = mpsc::channel();
        let watch = Watch {
            limits: Limits::all(Duration::from_millis(100)),
            ..watch()
        };
        let every = Duration::from_millis(10);
        let say = move |word| words.send(word).unwrap_or(());
        thread::spawn(move || watch.run(&progress, &receiver, every, say));
        (Watchdog(stages), told)
    }

    fn first(told: &Receiver<Word>, which: impl Fn(&Word) -> bool) -> Word {
        told.iter().find(|word| which(word)).unwrap()
    }

    fn hangs(part: Part) -> impl Fn(&Word) -> bool {
        move |word| matches!(word, Word::Hangs { stuck, news: true } if stuck.part == part)
    }

    #[test]
    fn a_thread_that_hangs_is_named_until_it_goes_on() {
        let progress = Progress::default();
        let (watchdog, told) = words(progress.clone());
        assert_eq!(told.recv().unwrap(), Word::Alive);
        let (go_on, waits) = mpsc::channel::<()>();
        let worker = thread::spawn(move || {
            let _work = progress.begin(Part::Disk);
            waits.recv().unwrap();
        });
        first(&told, hangs(Part::Disk));
        // While it hangs, systemd hears nothing.
        let next: Vec<Word> = told.iter().take(3).collect();
        let silent = |word: &Word| matches!(word, Word::Hangs { news: false, .. });
        assert!(next.iter().all(silent), "{next:?}");
        go_on.send(()).unwrap();
        worker.join().unwrap();
        first(&told, |word| *word == Word::GoesOn(Part::Disk));
        assert_eq!(told.recv().unwrap(), Word::Alive);
        watchdog.stopping(Duration::from_secs(60));
        first(&told, |word| *word == Word::Extend);
        drop(watchdog);
        while told.recv().is_ok() {}
    }

    #[test]
    fn a_disk_thread_that_nobody_frees_hangs_and_is_named() {
        let progress = Progress::default();
        let (_watchdog, told) = words(progress.clone());
        let folder = tempfile::tempdir().unwrap();
        let mut disk = crate::daemon::disk::stuck_for_tests(folder.path(), progress);
        first(&told, hangs(Part::Disk));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            // One of two is not the state of the ledger, and makes room for what it has to say.
            for _ in 0..2 {
                disk.event().await;
            }
        });
        first(&told, |word| *word == Word::GoesOn(Part::Disk));
    }

    #[test]
    fn a_request_that_never_ends_is_named() {
        let progress = Progress::default();
        let (_watchdog, told) = words(progress.clone());
        let request = progress.begin(Part::Exchange);
        first(&told, hangs(Part::Exchange));
        drop(request);
        first(&told, |word| *word == Word::GoesOn(Part::Exchange));
    }
}

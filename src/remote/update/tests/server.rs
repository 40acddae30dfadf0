//! An HTTP server of a few lines that does whatever a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What was asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    pub(super) headers: BTreeMap<String, String>,
}

/// What is answered.
pub(super) enum Reply {
    /// A body of that length.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// It says a longer length than it has, and hangs up.
    CutOff(Vec<(&'static str, String)>, Vec<u8>, usize),
    /// The beginning of a body of that length, and then silence on an open connection.
    Stall(Vec<u8>, usize),
    /// Zeros without an end or a length.
    Endless,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self::Whole(status, Vec::new(), b"text".to_vec())
    }

    pub(super) fn ok(body: &[u8]) -> Self {
        Self::Whole(200, Vec::new(), body.to_vec())
    }
}

pub(super) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Request>>>,
    /// Bytes of bodies that the system took.
    sent: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            sent: Arc::default(),
            ended: Arc::default(),
        };
        let (asked, sent, ended) = (
            server.asked.clone(),
            server.sent.clone(),
            server.ended.clone(),
        );
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (asked, sent, answer) = (asked.clone(), sent.clone(), answer.clone());
                thread::spawn(move || {
                    if let Some(request) = read(&stream) {
                        asked.lock().unwrap().push(request.clone());
                        let _ = write(stream, answer(&request), &sent);
                    }
                });
            }
        });
        server
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked for since the last call, that contains `part`.
    pub(super) fn asked(&self, part: &str) -> Vec<Request> {
        let mut asked = self.asked.lock().unwrap();
        let (these, others) = asked
            .drain(..)
            .partition(|r: &Request| r.path.contains(part));
        *asked = others;
        these
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Some(Request { path, headers })
}

fn write(mut stream: TcpStream, reply: Reply, sent: &AtomicU64) -> std::io::Result<()> {
    let head = |status: u16, headers: &[(&str, String)], length: Option<usize>| {
        let mut head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head + "\r\n"
    };
    match reply {
        Reply::Whole(status, headers, body) => {
            stream.write_all(head(status, &headers, Some(body.len())).as_bytes())?;
            stream.write_all(&body)?;
            sent.fetch_add(body.len() as u64, Ordering::SeqCst);
        }
        Reply::CutOff(headers, body, says) => {
            stream.write_all(head(200, &headers, Some(says)).as_bytes())?;
            stream.write_all(&body)?;
        }
        Reply::Stall(body, says) => {
            stream.write_all(head(200, &[], Some(says)).as_bytes())?;
            stream.write_all(&body)?;
            // Until the other side hangs up.
            let _ = std::io::Read::read(&mut stream, &mut [0]);
        }
        Reply::Endless => {
            stream.write_all(head(200, &[], None).as_bytes())?;
            loop {
                stream.write_all(&[0; 16 * 1024])?;
                sent.fetch_add(16 * 1024, Ordering::SeqCst);
            }
        }
    }
    Ok(())
}

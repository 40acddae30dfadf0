//! Who is connected, in the three formats in which OpenVPN lists it (`status-version`).
//!
//! Format 3 (the management interface's) separates by tabs, which no name can hold; 1 and 2 by
//! commas, which names can: a row that can be read in more than one way is not read, and says so.
//! Columns are found by the names in their header. Pure, bounded; nothing is kept between tables.

use super::{
    client::{Client, parse_address, parse_net},
    fault::Fault,
};

/// Most clients that are read from one server: four times of what one OpenVPN process serves.
pub(super) const MAX_CLIENTS: usize = 16_384;

/// Most bytes of all rows of clients in one table: real ones have about 170 each.
const MAX_ROWS_BYTES: usize = MAX_CLIENTS * 256;

/// Columns of the list of clients that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    CommonName,
    RealAddress,
    VirtualAddress,
    VirtualAddress6,
    Received,
    Sent,
    SinceText,
    Since,
    Username,
    ClientId,
    Other,
}

impl Column {
    fn named(name: &[u8]) -> Self {
        match name {
            b"Common Name" => Self::CommonName,
            b"Real Address" => Self::RealAddress,
            b"Virtual Address" => Self::VirtualAddress,
            b"Virtual IPv6 Address" => Self::VirtualAddress6,
            b"Bytes Received" => Self::Received,
            b"Bytes Sent" => Self::Sent,
            b"Connected Since" => Self::SinceText,
            b"Connected Since (time_t)" => Self::Since,
            b"Username" => Self::Username,
            b"Client ID" => Self::ClientId,
            _ => Self::Other,
        }
    }

    /// Whether a client may write commas into it.
    fn is_free(self) -> bool {
        matches!(self, Self::CommonName | Self::Username)
    }
}

/// A whole table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// When the daemon made it, Unix seconds; format 1 tells it in local time only.
    pub(super) time: Option<i64>,
    /// The same in the daemon's local time, format 1 only.
    pub(super) local_time: Vec<u8>,
    /// Its clients, those that are not authenticated yet included.
    pub(super) clients: Vec<Client>,
    /// A row could not be read: absence means nothing.
    pub(super) incomplete: bool,
    /// The daemon's version; not in format 1.
    pub(super) version: Option<String>,
}

/// Reads one table, line by line.
#[derive(Debug, Default)]
pub(super) struct TableParser {
    table: Table,
    columns: Vec<Column>,
    separator: Option<u8>,
    /// Format 1: between its header and `ROUTING TABLE`.
    in_clients: bool,
    bytes: usize,
}

impl TableParser {
    /// Takes a line without its end; true when the table is over.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<bool, Fault> {
        if line == b"END" {
            return Ok(true);
        }
        match line {
            b"ROUTING TABLE" => self.in_clients = false,
            _ if !self.in_clients && line.starts_with(b"Updated,") => {
                self.table.local_time = line[b"Updated,".len()..].to_vec();
            }
            // Not a second time: a client may be called so.
            _ if !self.in_clients && line.starts_with(b"Common Name,Real Address,") => {
                self.separator = Some(b',');
                self.columns = line
                    .split(|byte| *byte == b',')
                    .map(Column::named)
                    .collect();
                self.in_clients = true;
            }
            _ if self.in_clients => self.row(line)?,
            _ => self.tagged(line)?,
        }
        Ok(false)
    }

    /// What was read up to `END`.
    pub(super) fn finish(self) -> Result<Table, Fault> {
        if self.columns.is_empty() {
            return Err(Fault::NoServer);
        }
        Ok(self.table)
    }

    /// Formats 2 and 3: the first field says what the line is.
    fn tagged(&mut self, line: &[u8]) -> Result<(), Fault> {
        let Some(end) = line.iter().position(|byte| matches!(byte, b',' | b'\t')) else {
            return Ok(());
        };
        let (tag, separator, rest) = (&line[..end], line[end], &line[end + 1..]);
        match tag {
            b"TITLE" => self.table.version = version_of(rest),
            b"TIME" => {
                self.table.time = rest
                    .rsplit(|byte| *byte == separator)
                    .next()
                    .and_then(number)
            }
            b"HEADER" => {
                let mut names = rest.split(|byte| *byte == separator);
                if names.next() == Some(b"CLIENT_LIST") {
                    self.columns = names.map(Column::named).collect();
                    self.separator = Some(separator);
                }
            }
            b"CLIENT_LIST" if self.separator == Some(separator) => self.row(rest)?,
            _ => {}
        }
        Ok(())
    }

    fn row(&mut self, row: &[u8]) -> Result<(), Fault> {
        self.bytes += row.len();
        if self.table.clients.len() == MAX_CLIENTS || self.bytes > MAX_ROWS_BYTES {
            return Err(Fault::TooMuch);
        }
        let fields: Vec<&[u8]> = row.split(|byte| Some(*byte) == self.separator).collect();
        match self.client(&fields) {
            Some(client) => self.table.clients.push(client),
            None => self.table.incomplete = true,
        }
        Ok(())
    }

    /// The one client that `fields` can mean. Commas within names make more fields than columns:
    /// they are shared out among the free columns in every way, and one way must be left.
    fn client(&self, fields: &[&[u8]]) -> Option<Client> {
        let more = fields.len().checked_sub(self.columns.len())?;
        if more == 0 {
            let fields = fields.iter().map(|field| field.to_vec());
            return read(&self.columns, fields, false);
        }
        // No name is so long that it holds more commas (`TLS_USERNAME_LEN` is 64).
        if self.separator != Some(b',') || more > 64 {
            return None;
        }
        let free = self
            .columns
            .iter()
            .filter(|column| column.is_free())
            .count();
        let mut found = None;
        for first in 0..=more {
            let shares = [first, more - first];
            if free < 2 && first != more {
                continue;
            }
            let joined = join(&self.columns, fields, shares);
            if let Some(client) = read(&self.columns, joined.into_iter(), true) {
                if found.is_some() {
                    return None;
                }
                found = Some(client);
            }
        }
        found
    }
}

/// Fields by column, with `shares` further fields joined into the first and second free one.
fn join(columns: &[Column], fields: &[&[u8]], shares: [usize; 2]) -> Vec<Vec<u8>> {
    let mut shares = shares.into_iter();
    let mut fields = fields.iter();
    let mut joined = Vec::with_capacity(columns.len());
    for column in columns {
        let share = if column.is_free() {
            shares.next().unwrap_or(0)
        } else {
            0
        };
        let parts: Vec<&[u8]> = fields.by_ref().take(1 + share).copied().collect();
        joined.push(parts.join(&b','));
    }
    joined
}

/// `None` unless the columns hold what their names say. Only where the columns had to be guessed
/// (`strict`) must the addresses be readable: a bridge may show others than IP's.
fn read(columns: &[Column], fields: impl Iterator<Item = Vec<u8>>, strict: bool) -> Option<Client> {
    let mut client = Client::default();
    let (mut named, mut placed) = (false, false);
    for (column, field) in columns.iter().zip(fields) {
        match column {
            Column::CommonName => {
                client.common_name = field;
                named = true;
            }
            Column::RealAddress => {
                client.endpoint = parse_address(&field);
                if strict && client.endpoint.is_none() {
                    return None;
                }
                client.real_address = field;
                placed = true;
            }
            Column::VirtualAddress | Column::VirtualAddress6 if field.is_empty() => {}
            Column::VirtualAddress | Column::VirtualAddress6 => {
                let net = parse_net(&field);
                if strict && net.is_none() {
                    return None;
                }
                client.virtual_ips.extend(net);
            }
            Column::Received => client.rx = number(&field)?,
            Column::Sent => client.tx = number(&field)?,
            Column::SinceText => client.since_text = field,
            Column::Since => client.since = Some(number(&field)?),
            Column::Username if field == b"UNDEF" || field.is_empty() => {}
            Column::Username => client.username = Some(field),
            Column::ClientId => client.cid = Some(number(&field)?),
            Column::Other => {}
        }
    }
    (named && placed).then_some(client)
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `OpenVPN 2.6.14` of `OpenVPN 2.6.14 x86_64-pc-linux-gnu [SSL (OpenSSL)] …`.
pub(super) fn version_of(title: &[u8]) -> Option<String> {
    let mut words = title.split(|byte| *byte == b' ');
    let (product, version) = (words.next()?, words.next()?);
    let fits =
        |word: &[u8]| (1..=32).contains(&word.len()) && word.iter().all(u8::is_ascii_graphic);
    if product != b"OpenVPN" || !fits(version) {
        return None;
    }
    Some(format!("OpenVPN {}", version.escape_ascii()))
}

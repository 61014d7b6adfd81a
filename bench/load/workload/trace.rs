//! Recorded requests, read from a file and replayed in their order.
//!
//! Ids are renumbered from 0 in order of first appearance, so that a trace of n
//! keys asks for the ids below n and nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::Path;

use super::sizes::SIZE_MAX;

/// A longer line is no line of a trace.
const LINE_MAX: usize = 4096;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The key's id, below [`Trace::keys`].
    pub key: u32,
    /// The size of its value in bytes; 0 where the format has no sizes.
    pub bytes: u32,
}

/// Requests in the order in which they were recorded. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The requests.
    pub requests: Vec<Request>,
    /// How many different keys they ask for.
    pub keys: usize,
    /// Whether the format has sizes.
    pub sized: bool,
}

impl Trace {
    /// Reads the first `limit` requests of a file, or all. What the file holds is told by the end of its
    /// name: `.trace`, `.tr` or `.txt` is text, lines of `time id size` separated by blanks; `.be32` is
    /// big-endian 32-bit ids; `.oracleGeneral` or `.bin` is the format of libCacheSim, little-endian
    /// records of a 32-bit time, a 64-bit id, a 32-bit size and 64 bits that are not used here. Each may be
    /// compressed, with `.xz` behind.
    ///
    /// # Errors
    /// A sentence about a file that cannot be read, is empty, is of no known format, or is not in the
    /// format of its name, with the line or byte where it is not.
    pub fn read(path: &Path, limit: Option<usize>) -> Result<Self, String> {
        let fail = |problem: String| format!("trace {}: {problem}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.strip_suffix(".xz");
        let format = Format::by_name(plain.unwrap_or(&name)).map_err(fail)?;
        let file = File::open(path).map_err(|error| fail(error.to_string()))?;
        let mut reader = Reader::new(format, limit.unwrap_or(usize::MAX));
        let read = match plain {
            Some(_) => {
                lzma_rs::xz_decompress(&mut BufReader::new(file), &mut reader).map_err(|error| error.to_string())
            }
            None => io::copy(&mut BufReader::new(file), &mut reader).map(drop).map_err(|error| error.to_string()),
        };
        reader.finish(read).map_err(fail)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    BigEndian32,
    OracleGeneral,
}

impl Format {
    fn by_name(name: &str) -> Result<Self, String> {
        match name.rsplit_once('.').map(|(_, end)| end) {
            Some("trace" | "tr" | "txt") => Ok(Self::Text),
            Some("be32") => Ok(Self::BigEndian32),
            Some("bin" | "oracleGeneral") => Ok(Self::OracleGeneral),
            Some("zst") => Err("zstd is not unpacked here: unpack it first, with zstd -d".to_owned()),
            _ => Err("the end of its name tells no format: write .trace, .tr or .txt for text, .be32, .oracleGeneral \
                      or .bin, each also with .xz behind"
                .to_owned()),
        }
    }
}

/// Why a reader wants no more of its input.
enum Stop {
    /// It has as many requests as were asked for.
    Enough,
    /// The input is not what the name of its file says.
    Wrong(String),
}

/// Takes a file's bytes in pieces of any size and makes requests of them.
struct Reader {
    format: Format,
    limit: usize,
    /// The beginning of a record whose rest is still to come.
    pending: Vec<u8>,
    /// How many bytes are done with, or in text how many lines.
    position: u64,
    ids: HashMap<u64, u32>,
    requests: Vec<Request>,
    stop: Option<Stop>,
}

impl Reader {
    fn new(format: Format, limit: usize) -> Self {
        Self { format, limit, pending: Vec::new(), position: 0, ids: HashMap::new(), requests: Vec::new(), stop: None }
    }

    /// Makes requests of all whole records in `bytes`, and returns how many bytes those are.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        match self.format {
            Format::Text => self.take_lines(bytes),
            Format::BigEndian32 => self.take_records(bytes, |record: &[u8; 4]| (u32::from_be_bytes(*record).into(), 0)),
            Format::OracleGeneral => self.take_records(bytes, |record: &[u8; 24]| {
                let id = u64::from_le_bytes(record[4..12].try_into().expect("8 bytes"));
                let size = u32::from_le_bytes(record[12..16].try_into().expect("4 bytes"));
                (id, size.into())
            }),
        }
    }

    fn take_records<const WIDTH: usize>(
        &mut self,
        bytes: &[u8],
        decode: impl Fn(&[u8; WIDTH]) -> (u64, u64),
    ) -> Result<usize, Stop> {
        let (records, rest) = bytes.as_chunks::<WIDTH>();
        for record in records {
            let (id, size) = decode(record);
            self.add(id, size)?;
            self.position += WIDTH as u64;
        }
        Ok(bytes.len() - rest.len())
    }

    fn take_lines(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let mut used = 0;
        while let Some(length) = bytes[used..].iter().position(|b| *b == b'\n') {
            let line = bytes[used..used + length].trim_ascii();
            used += length + 1;
            if !line.is_empty() {
                let (id, size) = columns(line).ok_or_else(|| self.wrong_line(line))?;
                self.add(id, size)?;
            }
            self.position += 1;
        }
        let rest = &bytes[used..];
        if rest.len() > LINE_MAX { Err(self.wrong_line(rest)) } else { Ok(used) }
    }

    fn wrong_line(&self, line: &[u8]) -> Stop {
        const SHOWN: usize = 60;
        let shown = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]).escape_debug().to_string();
        let more = if line.len() > SHOWN { "…" } else { "" };
        Stop::Wrong(format!("{} is `{shown}{more}`, not three columns `time id size`", self.place()))
    }

    /// Where the next record begins.
    fn place(&self) -> String {
        match self.format {
            Format::Text => format!("line {}", self.position + 1),
            Format::BigEndian32 | Format::OracleGeneral => format!("byte {}", self.position),
        }
    }

    fn add(&mut self, id: u64, size: u64) -> Result<(), Stop> {
        if size > SIZE_MAX {
            return Err(Stop::Wrong(format!(
                "the record at {} has a size of {size} bytes, and no value has more than {SIZE_MAX}: is the file of the \
                 format that its name says?",
                self.place()
            )));
        }
        let next = u32::try_from(self.ids.len());
        let next = next.map_err(|_| Stop::Wrong("more than 2^32 different keys: set a limit".to_owned()))?;
        let key = *self.ids.entry(id).or_insert(next);
        self.requests.push(Request { key, bytes: size as u32 });
        if self.requests.len() >= self.limit { Err(Stop::Enough) } else { Ok(()) }
    }

    /// The trace, when `read` is how reading ended.
    fn finish(mut self, mut read: Result<(), String>) -> Result<Trace, String> {
        if self.format == Format::Text && read.is_ok() && !self.pending.is_empty() {
            // The last line needs no end.
            read = self.write_all(b"\n").map_err(|error| error.to_string());
        }
        match self.stop {
            Some(Stop::Wrong(problem)) => return Err(problem),
            Some(Stop::Enough) => {}
            None => read?,
        }
        if !self.pending.is_empty() {
            return Err(format!("it ends within the record at {}: it is cut off, or of another format", self.place()));
        }
        if self.requests.is_empty() {
            return Err("there are no requests in it".to_owned());
        }
        Ok(Trace { keys: self.ids.len(), sized: self.format != Format::BigEndian32, requests: self.requests })
    }
}

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        match self.take(&pending) {
            Ok(used) => {
                pending.drain(..used);
                self.pending = pending;
                Ok(bytes.len())
            }
            Err(stop) => {
                self.stop = Some(stop);
                Err(io::Error::other("no more is wanted"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The id and the size of a line `time id size`; further columns are passed over.
fn columns(line: &[u8]) -> Option<(u64, u64)> {
    let mut columns = std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    Some((columns.next()?.parse().ok()?, columns.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A file of this name in a folder of its own, which is removed when dropped.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str, bytes: &[u8]) -> Self {
            use std::sync::atomic::{AtomicU32, Ordering};
            static FOLDERS: AtomicU32 = AtomicU32::new(0);
            let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
            let folder = std::env::temp_dir().join(format!("ringfence-trace-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a temporary folder");
            let file = folder.join(name);
            std::fs::write(&file, bytes).expect("a temporary file");
            Self(file)
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let folder = self.0.parent().expect("the file is in a folder");
            std::fs::remove_dir_all(folder).expect("the temporary folder is still there");
        }
    }

    fn read(name: &str, bytes: &[u8], limit: Option<usize>) -> Result<Trace, String> {
        Trace::read(&Temporary::new(name, bytes).0, limit)
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        lzma_rs::xz_compress(&mut &bytes[..], &mut packed).expect("packing into memory");
        packed
    }

    fn pairs(trace: &Trace) -> Vec<(u32, u32)> {
        trace.requests.iter().map(|request| (request.key, request.bytes)).collect()
    }

    const TEXT: &[u8] = b"1 900 68\n2 7 7454\r\n\n3\t900  68 more\n4 18446744073709551615 0";

    fn oracle(requests: &[(u64, u32)]) -> Vec<u8> {
        let record = |(id, size): &(u64, u32)| {
            [&7u32.to_le_bytes()[..], &id.to_le_bytes(), &size.to_le_bytes(), &(-1i64).to_le_bytes()].concat()
        };
        requests.iter().flat_map(record).collect()
    }

    #[test]
    fn text_is_read_and_renumbered() {
        for (name, bytes) in [("a.trace", TEXT.to_vec()), ("a.txt", TEXT.to_vec()), ("a.tr.xz", xz(TEXT))] {
            let trace = read(name, &bytes, None).unwrap();
            assert_eq!(pairs(&trace), [(0, 68), (1, 7454), (0, 68), (2, 0)], "{name}");
            assert_eq!((trace.keys, trace.sized), (3, true));
        }
    }

    #[test]
    fn big_endian_ids_are_read_without_sizes() {
        let bytes: Vec<u8> = [5u32, 1 << 31, 5, 0].into_iter().flat_map(u32::to_be_bytes).collect();
        for (name, bytes) in [("a.be32", bytes.clone()), ("a.be32.xz", xz(&bytes))] {
            let trace = read(name, &bytes, None).unwrap();
            assert_eq!(pairs(&trace), [(0, 0), (1, 0), (0, 0), (2, 0)], "{name}");
            assert_eq!((trace.keys, trace.sized), (3, false));
        }
    }

    #[test]
    fn oracle_general_is_read() {
        let bytes = oracle(&[(u64::MAX, 10), (3, 20), (u64::MAX, 10)]);
        for (name, bytes) in
            [("a.oracleGeneral.bin", bytes.clone()), ("a.oracleGeneral", bytes.clone()), ("a.bin.xz", xz(&bytes))]
        {
            let trace = read(name, &bytes, None).unwrap();
            assert_eq!(pairs(&trace), [(0, 10), (1, 20), (0, 10)], "{name}");
            assert_eq!((trace.keys, trace.sized), (2, true));
        }
    }

    #[test]
    fn an_xz_file_with_a_checksum_is_read_and_a_damaged_one_refused() {
        // What `xz` makes of the ids 1, 2, 1: LZMA2 and CRC64.
        let mut packed = [
            0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16, 0x00,
            0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x0b, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x02, 0x00,
            0x00, 0x00, 0x01, 0x00, 0x4d, 0xdb, 0x91, 0x20, 0x42, 0xf4, 0x53, 0xc0, 0x00, 0x01, 0x24, 0x0c, 0xa6, 0x18,
            0xd8, 0xd8, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
        ];
        let trace = read("a.be32.xz", &packed, None).unwrap();
        assert_eq!(pairs(&trace), [(0, 0), (1, 0), (0, 0)]);
        packed[30] ^= 1;
        assert!(read("a.be32.xz", &packed, None).unwrap_err().contains("a.be32.xz"));
    }

    #[test]
    fn records_are_put_together_from_pieces_of_any_size() {
        let records = oracle(&[(9, 1), (8, 2), (9, 3)]);
        for piece in 1..30 {
            for (format, bytes) in [(Format::Text, TEXT), (Format::OracleGeneral, &records[..])] {
                let mut reader = Reader::new(format, usize::MAX);
                bytes.chunks(piece).for_each(|piece| reader.write_all(piece).expect("nothing stops it"));
                let whole = read(if format == Format::Text { "a.txt" } else { "a.bin" }, bytes, None);
                assert_eq!(reader.finish(Ok(())), whole);
            }
        }
    }

    #[test]
    fn a_limit_takes_the_first_requests_and_looks_no_further() {
        let mut text = b"1 1 1\n2 2 2\n".to_vec();
        text.extend_from_slice(b"nonsense\n");
        for (name, bytes) in [("a.txt", text.clone()), ("a.txt.xz", xz(&text))] {
            assert_eq!(pairs(&read(name, &bytes, Some(2)).unwrap()), [(0, 1), (1, 2)], "{name}");
            assert_eq!(pairs(&read(name, &bytes, Some(1)).unwrap()), [(0, 1)], "{name}");
            assert!(read(name, &bytes, Some(3)).is_err(), "{name}");
        }
        assert_eq!(read("a.txt", TEXT, Some(100)).unwrap().requests.len(), 4);
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_place() {
        let wrong_size = oracle(&[(1, 1), (2, 1 << 30)]);
        let long = vec![b'x'; 2 * LINE_MAX];
        for (name, bytes, parts) in [
            ("a.txt", &b"1 2 3\n1 two 3\n"[..], ["line 2 is `1 two 3`", "time id size"]),
            ("a.txt", b"1 2 3\n\n1 2", ["line 3 is `1 2`", "time id size"]),
            ("a.txt", b"1 2 -3\n", ["line 1 ", "time id size"]),
            ("a.txt", b"1 2 3\n1 2 99999999999\n", ["line 2 ", "99999999999 bytes"]),
            ("a.txt", &long, ["line 1 ", "…"]),
            ("a.txt", b"", ["no requests", "a.txt"]),
            ("a.be32", b"", ["no requests", "a.be32"]),
            ("a.be32", b"\0\0\0\x01\0\0", ["byte 4", "cut off"]),
            ("a.bin", &wrong_size, ["byte 24", "1073741824 bytes"]),
            ("a.bin", TEXT, ["byte 0", "format"]),
            ("a.bin", &oracle(&[(1, 1)])[..23], ["byte 0", "cut off"]),
            ("a.txt.xz", TEXT, ["a.txt.xz", "xz"]),
            ("a.zst", b"", ["unpack it first", "zstd -d"]),
            ("a.csv", b"", [".be32", ".oracleGeneral"]),
            ("trace", b"", [".trace", ".txt"]),
        ] {
            let error = read(name, bytes, None).expect_err(name);
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
        let missing = Trace::read(Path::new("/nowhere/a.txt"), None).unwrap_err();
        assert!(missing.contains("/nowhere/a.txt") && missing.contains("No such file"), "{missing}");
    }
}

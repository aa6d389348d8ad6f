// Packs a folder as lit_client does: a data set as a tar archive, a downloaded student as a zip archive, both without
// compression. An archive is a Blob of headers and of the files themselves, so it needs no memory for their bytes.

const BLOCK = 512;
const RECORD = 20 * BLOCK;
const encoder = new TextEncoder();

const SYSTEM_NAMES = new Set([
  "__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin",
  "system volume information", "@eadir", "#recycle", "@recycle", "lost+found", "__pycache__",
]);

export class UnusableFolder extends Error {}

/** Whether a path is of a system or a tool, and of no data set: as lit_spec.system_files says. */
export function isSystemFile(path) {
  return path.split("/").some((name) => name.startsWith(".") || SYSTEM_NAMES.has(name.toLowerCase()));
}

/** The file to send for a folder. `entries`: {path, file}, paths relative to the folder. Raises UnusableFolder. */
export async function packed(folder, entries, kind) {
  const kept = entries.filter(({ path }) => !isSystemFile(path));
  if (kind === "dataset") {
    if (!kept.length) throw new UnusableFolder(`${folder} has no files: give the folder with the data set.`);
    return named(tar(kept), `${folder}.tar`);
  }
  const model = kept.find(({ path }) => path === "model.safetensors");
  const config = kept.find(({ path }) => path === "config.json");
  if (!model) {
    throw new UnusableFolder(`${folder} is a folder without model.safetensors: give a checkpoint, or a student's folder.`);
  }
  return config ? named(await zip([model, config]), `${folder}.zip`) : model.file;
}

function named(blob, name) {
  return new File([blob], name);
}

/** The same files make the same bytes as with `litc`, so that the service knows them again. */
export function tar(entries) {
  const parts = [];
  let size = 0;
  const add = (piece, length) => {
    parts.push(piece);
    size += length;
  };
  for (const { path, file } of [...entries].sort((one, other) => byCodePoint(one.path, other.path))) {
    for (const header of tarHeaders(path, file.size)) add(header, header.length);
    add(file, file.size);
    const rest = -file.size & (BLOCK - 1);
    if (rest) add(new Uint8Array(rest), rest);
  }
  size += 2 * BLOCK;
  parts.push(new Uint8Array(2 * BLOCK + ((RECORD - (size % RECORD)) % RECORD)));
  return new Blob(parts, { type: "application/x-tar" });
}

function byCodePoint(one, other) {
  const [a, b] = [encoder.encode(one), encoder.encode(other)];
  for (let i = 0; i < Math.min(a.length, b.length); i += 1) if (a[i] !== b[i]) return a[i] - b[i];
  return a.length - b.length;
}

/** A member's header and, for a name or size that it has no room for, a pax header (POSIX.1-2001) before it. */
function tarHeaders(path, size) {
  const records = [];
  if (path.length > 100 || !isAscii(path)) records.push(["path", path]);
  const large = size >= 8 ** 11;
  if (large) records.push(["size", String(size)]);
  const own = tarHeader(path, large ? 0 : size, "0");
  if (!records.length) return [own];
  const content = encoder.encode(records.map(([key, value]) => paxRecord(key, value)).join(""));
  const padded = new Uint8Array(Math.ceil(content.length / BLOCK) * BLOCK);
  padded.set(content);
  return [tarHeader("././@PaxHeader", content.length, "x", 0), padded, own];
}

function isAscii(text) {
  return /^[\x00-\x7f]*$/.test(text);
}

/** "LENGTH key=value\n", where LENGTH counts its own digits too. */
function paxRecord(key, value) {
  const rest = encoder.encode(` ${key}=${value}\n`).length;
  let length = rest + 1;
  while (String(length).length + rest !== length) length = String(length).length + rest;
  return `${length} ${key}=${value}\n`;
}

function tarHeader(name, size, type, mode = 0o644) {
  const header = new Uint8Array(BLOCK);
  const write = (at, text) => header.set(encoder.encode(text), at);
  const octal = (value, digits) => value.toString(8).padStart(digits, "0");
  // A name in a pax header stands here only for old readers, with question marks as Python's tarfile has them.
  write(0, name.replace(/[^\x00-\x7f]/gu, "?").slice(0, 100));
  write(100, octal(mode, 7));
  write(108, octal(0, 7));
  write(116, octal(0, 7));
  write(124, octal(size, 11));
  write(136, octal(0, 11));
  write(148, "        ");
  write(156, type);
  write(257, "ustar\x0000");
  write(148, `${octal(header.reduce((sum, byte) => sum + byte, 0), 6)}\0`);
  return header;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

async function crc32(file) {
  let crc = ~0;
  for (let at = 0; at < file.size; at += 4 << 20) {
    for (const byte of new Uint8Array(await file.slice(at, at + (4 << 20)).arrayBuffer())) {
      crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
    }
  }
  return ~crc >>> 0;
}

/** A zip archive of stored files (APPNOTE 6.3). Raises UnusableFolder for 4 GiB and more, which would need zip64. */
async function zip(entries) {
  const parts = [];
  const directory = [];
  let at = 0;
  for (const { path, file } of entries) {
    if (at + file.size >= 0xffffffff) throw new UnusableFolder("The student has more than 4 GiB: send it with litc.");
    const name = encoder.encode(path);
    const common = zipFields(await crc32(file), file.size, name.length);
    const local = joined([0x50, 0x4b, 3, 4], common, name);
    directory.push(joined([0x50, 0x4b, 1, 2, 20, 0], common, new Array(10).fill(0), number4(at), name));
    parts.push(local, file);
    at += local.length + file.size;
  }
  const size = directory.reduce((sum, entry) => sum + entry.length, 0);
  const count = [directory.length, 0];
  const end = joined([0x50, 0x4b, 5, 6, 0, 0, 0, 0], count, count, number4(size), number4(at), [0, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** What the local and the central header have in common: version to the length of the extra field. 1 January 1980. */
function zipFields(crc, size, nameLength) {
  return joined([20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0], number4(crc), number4(size), number4(size), [nameLength, 0, 0, 0]);
}

function number4(value) {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, (value >>> 24) & 0xff];
}

function joined(...pieces) {
  return Uint8Array.from(pieces.flatMap((piece) => [...piece]));
}

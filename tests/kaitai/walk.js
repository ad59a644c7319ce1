// Read files with compiled specifications and print what was found, a line of JSON for each line of the standard input:
// {"class": file of the class, "file": path, "derived": [path, …]}.
const fs = require("fs");
const readline = require("readline");
const KaitaiStream = require("kaitai-struct/KaitaiStream");

const snake = (name) => name.replace(/[A-Z]/g, (letter) => "_" + letter.toLowerCase());
const camel = (name) => name.replace(/_([a-z0-9])/g, (_, letter) => letter.toUpperCase());
const classes = {};

function* fields(record) {
  for (const [key, place] of Object.entries(record._debug)) {
    if (!key.startsWith("_m_")) yield [snake(key), record[key], place];
  }
}

function leaf(value) {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("hex");
  return typeof value === "bigint" ? value.toString() : value === Infinity || value === -Infinity || value !== value ? String(value) : value;
}

function* leaves(value, path, place) {
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) yield* leaves(value[i], `${path}[${i}]`, place.arr[i]);
  } else if (value !== null && typeof value === "object" && value._debug) {
    if (value.constructor.name === "String") {
      yield [path, place.start, place.end - place.start, value.text];
    } else {
      for (const [name, inner, at] of fields(value)) {
        if (name.endsWith("_ahead") || name === "end_of_file" || name === "inference") continue;
        yield* leaves(inner, `${path}.${name.replace(/^stored_/, "")}`.replace(/^\./, ""), at);
      }
    }
  } else {
    yield [path, place.start, place.end - place.start, path.endsWith("data") ? null : leaf(value)];
  }
}

function derived(root, path) {
  const value = path.split(/[.[\]]+/).filter(Boolean).reduce((record, name) => record[camel(name)], root);
  return value !== null && typeof value === "object" ? Object.fromEntries(
    ["remaining", "adam_bound", "lbfgs_bound", "by_size", "by_records"].map((name) => [name, value[camel(name)]])) : value;
}

function failed(value, place) {
  let last = null;
  for (const [, inner, at] of fields(value)) last = [inner, at];
  if (last === null) return place;
  let [inner, at] = last;
  if (at.arr && at.arr.length && at.end === undefined) {
    inner = inner[at.arr.length - 1];
    at = at.arr[at.arr.length - 1];
  }
  return inner && inner._debug && at.end === undefined ? failed(inner, at) : at;
}

function read(job) {
  const file = (classes[job.class] ||= Object.values(require(job.class))[0]);
  const root = new file(new KaitaiStream(fs.readFileSync(job.file)));
  try {
    root._read();
  } catch (error) {
    return { error: String(error), offset: failed(root, { start: 0 }).start };
  }
  const infos = root.tensorInfos || [];
  let data = [];
  for (const info of [...infos].sort((a, b) => a.offset - b.offset)) {
    try {
      info.data;
    } catch (error) {
      return { error: String(error), offset: root.dataStart + info.offset };
    }
  }
  data = infos.filter((info) => info.isKnown).map((info) => [info.name.text, root.dataStart + info.offset, info.nbytes]);
  return { leaves: [...leaves(root, "", {})], derived: job.derived.map((path) => derived(root, path)), data };
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  console.log(JSON.stringify(read(JSON.parse(line))));
});

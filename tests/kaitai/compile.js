// Compile the specifications on the standard input, [[language, specification], …], to an array of {file name: text}.
const compiler = require("kaitai-struct-compiler");
const fs = require("fs");

(async () => {
  const none = { importYaml: async (name) => { throw new Error(`${name}: nothing should be imported`); } };
  const compiled = [];
  for (const [language, specification] of JSON.parse(fs.readFileSync(0))) {
    compiled.push(await compiler.compile(language, specification, none, true));
  }
  process.stdout.write(JSON.stringify(compiled));
})().catch((error) => { console.error(String(error.stack || error)); process.exit(1); });

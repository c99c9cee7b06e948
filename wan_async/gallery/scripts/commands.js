// Commands that continue what the page shows, as they are typed in the folder in which the run was started.
const COMMAND = PAGE.command;  // batch and out as the run had them; null where nobody knows
const BATCH = COMMAND.batch === null ? "BATCH" : quoted([COMMAND.batch]);
const OUT = quoted([COMMAND.out ?? PAGE.folder]);
const SANDBOX = COMMAND.sandbox ? " --sandbox" : "";

function quoted(words) {
  return words.map((word) => (/^--[a-z-]+$/.test(word) ? word : quotePosix(word))).join(" ");
}

function runCommand() {
  const out = COMMAND.out === null ? "" : ` -o ${OUT}`;
  return ["wan-async run", BATCH + out + SANDBOX, quoted(COMMAND.flags)].filter((part) => part).join(" ");
}

const againCommand = (take) => `wan-async again ${quoted([take.id])} -o ${OUT}${SANDBOX}`;
const planCommand = (name) => `wan-async plan ${quoted([`${COMMAND.out ?? PAGE.folder}/${name}`])}${SANDBOX}`;

function aboutCommands(...commands) {
  const where = say(COMMAND.out === null ? "commandsGuessed" : "commandsKnown", { folder: PAGE.folder });
  const hasPlaceholder = COMMAND.batch === null && commands.some((command) => command.includes(BATCH));
  return hasPlaceholder ? `${where} ${say("batchUnknown")}` : where;
}

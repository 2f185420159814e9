// Texts as a JSON list on stdin; [encoding, segments] of each on stdout.
const { SegmentedMessage } = require("sms-segments-calculator");

const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
const found = texts.map((text) => {
  const message = new SegmentedMessage(text);
  return [message.encodingName === "GSM-7" ? "gsm7" : "ucs2", message.segmentsCount];
});
process.stdout.write(JSON.stringify(found));

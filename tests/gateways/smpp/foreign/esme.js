// An ESME made of the npm package `smpp`: binds to 127.0.0.1:<port>, submits, waits for receipts and a text, leaves.
// Prints one line of JSON.
'use strict';
const smpp = require('smpp');

const session = smpp.connect({ url: `smpp://127.0.0.1:${process.argv[2]}` });
const seen = { answers: [], receipts: [], texts: [] };
const numbers = ['12025551000', '12025551001', '12025550190'];
session.on('error', (error) => { console.error(error); process.exit(1); });
session.on('deliver_sm', (pdu) => {
  const message = pdu.short_message.message;
  if (pdu.esm_class & 0x04) seen.receipts.push({ text: message, receipted: pdu.receipted_message_id, state: pdu.message_state });
  else seen.texts.push({ from: pdu.source_addr, to: pdu.destination_addr, text: message });
  session.send(pdu.response());
  finish();
});
function finish() {
  if (seen.answers.length < numbers.length || seen.receipts.length < 2 || seen.texts.length < 1 || seen.done) return;
  seen.done = true;
  session.unbind(() => { session.close(); console.log(JSON.stringify(seen)); process.exit(0); });
}
session.on('connect', () => {
  session.bind_transceiver({ system_id: 'volley', password: 'secret' }, (pdu) => {
    seen.bound = pdu.command_status;
    session.enquire_link({}, (answer) => { seen.enquired = answer.command_status; });
    for (const destination_addr of numbers) {
      session.submit_sm(
        { source_addr: '12345', destination_addr, short_message: 'Xin chào ạ', registered_delivery: 1 },
        (answer) => { seen.answers.push([destination_addr, answer.command_status, answer.message_id]); finish(); },
      );
    }
  });
});

// An SMSC made of the npm package `smpp`, for the interoperability tests. Prints its port, then what it hears,
// a line of JSON each; takes orders on stdin, a line of JSON each.
'use strict';
const readline = require('readline');
const smpp = require('smpp');

const say = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const text = (pdu) => {
  const message = pdu.short_message && pdu.short_message.message !== undefined ? pdu.short_message.message : pdu.short_message;
  const payload = pdu.message_payload && pdu.message_payload.message !== undefined ? pdu.message_payload.message : pdu.message_payload;
  const whole = message && message.length ? message : payload;
  return Buffer.isBuffer(whole) ? whole.toString('latin1') : whole;
};
let session = null;
let number = 0xabc0;

const server = smpp.createServer({}, (connected) => {
  session = connected;
  for (const bind of ['bind_transceiver', 'bind_transmitter', 'bind_receiver']) {
    connected.on(bind, (pdu) => {
      const ok = pdu.password === 'hunter2';
      say({ heard: bind, system_id: pdu.system_id, interface_version: pdu.interface_version, system_type: pdu.system_type, ok });
      connected.send(pdu.response({ system_id: 'npm', command_status: ok ? 0 : smpp.ESME_RINVPASWD }));
    });
  }
  connected.on('submit_sm', (pdu) => {
    const udh = pdu.short_message && pdu.short_message.udh ? pdu.short_message.udh.map((e) => Buffer.from(e).toString('hex')) : [];
    number += 1;
    const message_id = number.toString(16).toUpperCase();
    const status = pdu.destination_addr.endsWith('190') ? smpp.ESME_RINVDSTADR : 0;
    say({
      heard: 'submit_sm', message_id, to: pdu.destination_addr, from: pdu.source_addr,
      ton: [pdu.source_addr_ton, pdu.dest_addr_ton], text: text(pdu), udh, data_coding: pdu.data_coding,
      registered_delivery: pdu.registered_delivery, validity_period: pdu.validity_period, service_type: pdu.service_type,
      priority: pdu.priority_flag, replace: pdu.replace_if_present_flag, protocol_id: pdu.protocol_id,
      sar: [pdu.sar_msg_ref_num, pdu.sar_total_segments, pdu.sar_segment_seqnum],
    });
    connected.send(status ? pdu.response({ command_status: status }) : pdu.response({ message_id }));
  });
  connected.on('query_sm', (pdu) => {
    say({ heard: 'query_sm', message_id: pdu.message_id, from: pdu.source_addr });
    connected.send(pdu.response({ message_id: pdu.message_id, final_date: '', message_state: 2, error_code: 0 }));
  });
  connected.on('cancel_sm', (pdu) => {
    say({ heard: 'cancel_sm', message_id: pdu.message_id, from: pdu.source_addr, to: pdu.destination_addr, service_type: pdu.service_type });
    connected.send(pdu.response());
  });
  connected.on('enquire_link', (pdu) => connected.send(pdu.response()));
  connected.on('unbind', (pdu) => {
    say({ heard: 'unbind' });
    connected.send(pdu.response());
    connected.close();
  });
  connected.on('error', (error) => say({ error: error.code || String(error) }));
});

// {"deliver_sm": {...}}: sends it and says how it was answered; {"enquire_link": {}} likewise; {"unbind": {}}
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line);
  for (const [command, fields] of Object.entries(order)) {
    session[command](fields, (answer) => say({ answered: command, status: answer.command_status }));
  }
}).on('close', () => process.exit(0));

server.listen(0, '127.0.0.1', () => {
  const inner = server.address ? server.address() : server.server.address();
  say({ port: inner.port });
});

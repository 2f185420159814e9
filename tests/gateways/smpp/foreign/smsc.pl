# An SMSC made of Debian's libnet-smpp-perl, for the interoperability tests: takes one bind, answers, and sends a
# receipt for each submit. Prints its port, then what it hears, a line each.
use strict;
use warnings;
use Net::SMPP;

$| = 1;
my $listener = Net::SMPP->new_listen('127.0.0.1', port => 0, timeout => 30) or die "can't listen: $!";
print "port ", $listener->sockport, "\n";
my $esme = $listener->accept or die "nobody came: $!";
my $number = 2_000_000_000;

while (my $pdu = $esme->read_pdu) {
    my $command = $pdu->{cmd};
    my $sequence = $pdu->{seq};
    if ($command == Net::SMPP::CMD_bind_transceiver) {
        print "bind $pdu->{system_id} $pdu->{interface_version}\n";
        $esme->bind_transceiver_resp(system_id => 'perl', seq => $sequence);
    } elsif ($command == Net::SMPP::CMD_submit_sm) {
        $number++;
        print "submit $number $pdu->{source_addr} $pdu->{destination_addr} ",
            "$pdu->{source_addr_ton} $pdu->{esm_class} $pdu->{data_coding} $pdu->{registered_delivery} ",
            unpack('H*', $pdu->{short_message}), "\n";
        $esme->submit_sm_resp(message_id => "$number", seq => $sequence);
        my $text = "id:$number sub:001 dlvrd:001 submit date:2611220035 done date:2611220036 stat:DELIVRD err:000 text:";
        $esme->deliver_sm(
            source_addr => $pdu->{destination_addr}, destination_addr => $pdu->{source_addr}, esm_class => 4,
            short_message => $text, async => 1,
        );
    } elsif ($command == Net::SMPP::CMD_query_sm) {
        print "query $pdu->{message_id}\n";
        $esme->query_sm_resp(
            message_id => $pdu->{message_id}, final_date => '261122003507000+', message_state => 8, error_code => 7,
            seq => $sequence,
        );
    } elsif ($command == Net::SMPP::CMD_cancel_sm) {
        print "cancel $pdu->{message_id} $pdu->{source_addr} $pdu->{destination_addr}\n";
        $esme->cancel_sm_resp(seq => $sequence);
    } elsif ($command == Net::SMPP::CMD_deliver_sm_resp) {
        print "delivered $pdu->{status}\n";
    } elsif ($command == Net::SMPP::CMD_enquire_link) {
        $esme->enquire_link_resp(seq => $sequence);
    } elsif ($command == Net::SMPP::CMD_unbind) {
        print "unbind\n";
        $esme->unbind_resp(seq => $sequence);
        last;
    }
}

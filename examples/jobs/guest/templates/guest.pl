use strict; use warnings;
use IO::Socket::INET;

$| = 1;
my $address = "$ENV{DEPLOY_ADDRESS}:$ENV{PORT}";
my $listen = IO::Socket::INET->new(LocalAddr => $address, Listen => 64, ReuseAddr => 1)
    or die "cannot listen on $address: $@\n";
print "serving on $address\n";
while (1) {
    my $client = $listen->accept or next;
    while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
    my $body = "Hello from $ENV{DEPLOY_INSTANCE}\n";
    print $client "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n" . $body;
    close $client;
}

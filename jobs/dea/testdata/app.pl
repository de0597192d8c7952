# An app that does what the tests ask of it: GET /<what>/<argument>. Options
# come first: -p PORT.
use strict; use warnings;
use IO::Socket::INET;

my %option = @ARGV;
my $mode = $ENV{MODE} || "";
$| = 1;
$SIG{USR1} = sub { exit 9 } if $mode eq "patient";
print "begins\n";
if ($mode eq "exit")   { sleep($ENV{AFTER} || 0); exit($ENV{STATUS} || 0) }
if ($mode eq "patient") { sleep 1 while 1 }
if ($mode eq "deaf")   { $SIG{TERM} = "IGNORE" }
if ($mode eq "polite") { $SIG{TERM} = sub { open(my $f, ">", "../logs/polite"); print $f "bye\n"; exit 0 } }
if ($mode eq "silent") { sleep 1 while 1 }
if ($mode eq "state")  {
    sleep 1;
    open(my $f, ">", "../app.state"); print $f '{"state": "RUNNING"}'; close $f;
}
# These three harm nobody even where nothing contains them: there is an end to
# what they take, and to them.
if ($mode eq "bomb") {
    open(my $count, ">>", "bombs");    # a byte for each try of any of them
    for (my $end = time + 20; time < $end;) {
        if (-s $count < 300) { syswrite($count, "x"); fork } else { select(undef, undef, undef, 0.1) }
    }
    exit 0;
}
if ($mode eq "hungry") { my @all; push @all, "x" x (1 << 20) for 1 .. 512; sleep 20; exit 0 }
if ($mode eq "filler") { open(my $f, ">", "fill"); print $f "x" x (1 << 20) for 1 .. 256; sleep 20; exit 0 }
if ($mode eq "flood") {
    print "x" x 1023, "\n" for 1 .. 20000;
    open(my $again, ">>", "/dev/stdout") or die "cannot open /dev/stdout: $!\n";
    print $again "the last line\n";
    close $again;
    print STDERR "to stderr\n";
}
if ($mode eq "astray" or $mode eq "shy") {
    my @at = $mode eq "shy" ? (LocalAddr => "127.0.0.2", LocalPort => $option{"-p"}) : (LocalPort => 0);
    my $listen = IO::Socket::INET->new(@at, Listen => 1) or die "cannot listen: $@\n";
    sleep 1 while 1;
}
if ($mode eq "marker") { sleep 1; open(my $f, ">", "tmp.ready"); close $f; sleep 1 while 1 }
if ($mode eq "worker" or !$option{"-p"}) { sleep 1 while 1 }

my $listen = IO::Socket::INET->new(LocalPort => $option{"-p"}, Listen => 128, ReuseAddr => 1) or die "cannot listen: $@\n";
$SIG{ALRM} = sub { exit 4 };
alarm 1 if $mode eq "serve-then-exit";
$SIG{CHLD} = "IGNORE";
while (1) {
    my $client = $listen->accept or next;
    my $child = fork;                              # undef: its user has no process left
    if ($child) { close $client; next }
    $SIG{TERM} = "IGNORE" if $mode eq "polite";    # what was begun is finished
    my ($what, $argument, $length) = ("", "", 0);
    while (my $line = <$client>) {
        ($what, $argument) = ($1, $2) if $line =~ m{^[A-Z]+ /([a-z]*)(?:/(\S*))? };
        $length = $1 if $line =~ /^Content-Length: *(\d+)/i;
        last if $line =~ /^\r?\n$/;
    }
    # What is unread when a connection is closed resets it, and the answer is lost.
    read($client, my $sent, $length) if $length;
    my $status = "200 OK";
    $status = "503 Not Yet" if $what eq "never" or $what eq "warm" and time - $^T < 2;
    my $body = "hello from $ENV{VMC_APP_ID}\n";
    if ($what eq "env")  { $body = join("\n", map { "$_=$ENV{$_}" } sort keys %ENV) . "\n" }
    if ($what eq "slow") { select(undef, undef, undef, $argument) }
    if ($what eq "read") { open(my $f, "<", "/$argument") or $body = "no: $!\n"; $body = join("", <$f>) if defined fileno($f) }
    if ($what eq "list") { opendir(my $d, "/$argument") or $body = "no: $!\n"; $body = join("\n", readdir($d)) if $d and fileno($d) }
    if ($what eq "pids") { opendir(my $d, "/proc"); $body = join("\n", grep { /^\d+$/ } readdir($d)) . "\n" }
    if ($what eq "who")  { $body = "$< $(\n" }
    if ($what eq "limits") { open(my $f, "<", "/proc/self/limits"); $body = join("", <$f>) }
    print $client "HTTP/1.0 $status\r\nContent-Length: " . length($body) . "\r\n\r\n" . $body;
    close $client;
    kill("KILL", getppid) if $what eq "kill";
    exit 0 if defined $child;
}

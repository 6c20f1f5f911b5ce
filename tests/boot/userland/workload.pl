# Work of the Perl interpreter, with results that are the same everywhere.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use List::Util qw(sum shuffle);
use Math::BigInt;
use POSIX qw(floor fmod);
use Storable qw(freeze thaw);

my $seed = 42;
sub number { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $seed >> 8 }

my %count;
my @words = map { join '', map { chr(97 + number() % 6) } 1 .. 3 } 1 .. 20000;
$count{$_}++ for @words;
print join(' ', map { "$_=$count{$_}" } (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9]), "\n";
my $text = join ' ', @words;
(my $turned = $text) =~ s/\b(\w)(\w)(\w)\b/$3$1$2/g;
print sha256_hex($turned), "\n";
my @matches = $text =~ /(\w)\1(\w)/g;
print scalar(@matches), "\n";
my $factorial = Math::BigInt->new(120)->bfac;
print "$factorial\n";
die unless Math::BigInt->new(2)->bmodpow(560, 561) == 1;
printf "%.10g %.10g %.10g\n", sum(map { sin($_ / 7) } 1 .. 1000), fmod(12345.678, 7.25), exp(1.5);
my $copy = thaw(freeze({list => \@words, map => \%count}));
die unless "@{$copy->{list}}" eq "@words";
my @sorted = sort { $a <=> $b } map { number() } 1 .. 5000;
print sha256_hex(join ',', @sorted), "\n";
my $pid = open(my $pipe, '-|', 'seq 1 1000 | sort -r | head -n 3') or die;
print <$pipe>;
close $pipe or die;
print pack('N n C a4', 305419896, 4660, 77, 'abcd') eq "\x12\x34\x56\x78\x12\x34Mabcd" ? "packed\n" : "wrong\n";

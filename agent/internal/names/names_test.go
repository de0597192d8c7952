package names

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/agent/api"
)

var two = []api.Name{{Instance: "cloud_controller/0", Address: "10.0.0.11"}, {Instance: "router/1", Address: "fd00::12"}}

const twoBlock = begin + `
10.0.0.11 cloud_controller-0.cf.internal cloud_controller-0 0.cloud_controller.cf.internal
fd00::12 router-1.cf.internal router-1 1.router.cf.internal
` + end + "\n"

func TestBlockNamesEachInstance(t *testing.T) {
	block, err := Block("cf", two)
	if err != nil || string(block) != twoBlock {
		t.Errorf("the block is %q, %v", block, err)
	}
	if block, err := Block("cf", nil); err != nil || block != nil {
		t.Errorf("without names the block is %q, %v", block, err)
	}
	for _, test := range []struct {
		deployment, instance, address string
	}{
		{"cf", "router/0", "10.0.0.1 evil"}, {"cf", "router/0", ""}, {"cf", "router/0", "fe80::1%eth0"},
		{"cf", "rou ter/0", "10.0.0.1"}, {"cf", "router\n/0", "10.0.0.1"}, {"cf", "router", "10.0.0.1"},
		{"c\nf", "router/0", "10.0.0.1"}, {"", "router/0", "10.0.0.1"},
	} {
		if block, err := Block(test.deployment, []api.Name{{Instance: test.instance, Address: test.address}}); err == nil {
			t.Errorf("%+v gave the block %q", test, block)
		}
	}
}

// TestHostsOfLongNames: a host name fits into the kernel's and into DNS whatever the group
// is called, and two instances never share one.
func TestHostsOfLongNames(t *testing.T) {
	long := strings.Repeat("a", 70)
	all := map[string]string{}
	for _, instance := range []string{"router/0", strings.Repeat("b", 61) + "/0", strings.Repeat("b", 62) + "/0", strings.Repeat("b", 62) + "/1", long + "/0", long + "/1", long + "/1000000", long + "b/0", strings.Repeat("c-", 40) + "/0"} {
		host := Host(instance)
		if len(host) > 63 || !label.MatchString(host) || strings.HasSuffix(host, "-") {
			t.Errorf("the host of %s is called %q (%d bytes)", instance, host, len(host))
		}
		if other, taken := all[host]; taken {
			t.Errorf("%s and %s have one host name: %s", instance, other, host)
		}
		all[host] = instance
	}
	if got := Host(strings.Repeat("b", 61) + "/0"); got != strings.Repeat("b", 61)+"-0" {
		t.Errorf("a name that fits is changed: %s", got)
	}
}

func TestReplaceTouchesTheBlockOnly(t *testing.T) {
	const theirs = "127.0.0.1 localhost\n127.0.1.1 vm\n"
	for _, test := range []struct{ name, file, block, want string }{
		{"a file without one", theirs, twoBlock, twoBlock + theirs},
		{"no file", "", twoBlock, twoBlock},
		{"another block", begin + "\n10.9.9.9 old\n" + end + "\n" + theirs, twoBlock, twoBlock + theirs},
		{"in the middle", "127.0.0.1 localhost\n" + begin + "\n10.9.9.9 old\n" + end + "\n127.0.1.1 vm\n", twoBlock, twoBlock + theirs},
		{"two blocks", twoBlock + theirs + twoBlock, twoBlock, twoBlock + theirs},
		{"removed", twoBlock + theirs, "", theirs},
		{"its end is missing", begin + "\n10.9.9.9 old\n" + theirs, twoBlock, twoBlock + "10.9.9.9 old\n" + theirs},
		{"its end is missing, and another follows", begin + "\n10.9.9.9 old\n" + twoBlock + theirs, twoBlock, twoBlock + "10.9.9.9 old\n" + theirs},
		{"lines of DOS", begin + "\r\n10.9.9.9 old\r\n" + end + "\r\n" + theirs, twoBlock, twoBlock + theirs},
		{"no end of the last line", "127.0.0.1 localhost", twoBlock, twoBlock + "127.0.0.1 localhost"},
	} {
		if got := string(Replace([]byte(test.file), []byte(test.block))); got != test.want {
			t.Errorf("%s: it becomes\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
}

// TestReplaceKeepsOtherLines: whatever is in the file, what is not ours stays in its
// order, what is ours is found again, and doing it twice changes nothing.
func TestReplaceKeepsOtherLines(t *testing.T) {
	line := rapid.SampledFrom([]string{"127.0.0.1 localhost\n", "\n", "# a comment\n", begin + "\n", end + "\n", "10.0.0.11 old\n", "no end"})
	rapid.Check(t, func(t *rapid.T) {
		file := []byte(strings.Join(rapid.SliceOfN(line, 0, 12).Draw(t, "file"), ""))
		block, err := Block("cf", two[:rapid.IntRange(0, 2).Draw(t, "names")])
		if err != nil {
			t.Fatal(err)
		}
		once := Replace(file, block)
		if twice := Replace(once, block); !bytes.Equal(once, twice) {
			t.Errorf("twice gives\n%s\nonce\n%s", twice, once)
		}
		if got := Found(once); !bytes.Equal(got, block) {
			t.Errorf("found is %q, put was %q", got, block)
		}
		outside := func(text []byte) []string { // of every block, without lines that begin or end one
			var lines []string
			for at := text; len(at) > 0; {
				l, after := cut(at)
				at = after
				if string(bytes.TrimRight(l, "\r\n")) == begin {
					if _, behind, found := split(after); found {
						at = behind
					}
					continue
				}
				lines = append(lines, string(l))
			}
			return lines
		}
		if a, b := outside(file), outside(once); !slices.Equal(a, b) {
			t.Errorf("other lines were %q, are %q", a, b)
		}
	})
}

func FuzzReplace(f *testing.F) {
	f.Add([]byte(twoBlock + "127.0.0.1 localhost"))
	f.Add([]byte(begin + "\n" + begin + "\n" + end))
	f.Fuzz(func(t *testing.T, file []byte) {
		if bytes.Contains(file, []byte("deploy")) {
			return // begins and ends of blocks: the property above
		}
		if got := Replace(Replace(file, []byte(twoBlock)), nil); !bytes.Equal(got, file) {
			t.Errorf("put and removed, %q is %q", file, got)
		}
	})
}

func TestApplyWritesWhatDiffersOnly(t *testing.T) {
	m := Machine{Root: t.TempDir()}
	etc := filepath.Join(m.Root, "etc")
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(etc, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if m.InPlace("cf", "router/1", two) {
		t.Error("names are in place before they were written")
	}
	apply := func(list []api.Name) os.FileInfo {
		t.Helper()
		if err := m.Apply("cf", "router/1", list); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(hosts)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	first := apply(two)
	if got := read(hosts); got != twoBlock+"127.0.0.1 localhost\n" || first.Mode() != 0o640 {
		t.Errorf("the file is %q, %v", got, first.Mode())
	}
	if got := read(filepath.Join(etc, "hostname")); got != "router-1\n" {
		t.Errorf("the host name is %q", got)
	}
	if !m.InPlace("cf", "router/1", two) || m.InPlace("cf", "router/0", two) || m.InPlace("cf", "router/1", two[:1]) {
		t.Error("InPlace takes other names for these")
	}
	if second := apply(two); !os.SameFile(first, second) {
		t.Error("what was right was written again")
	}
	if third := apply(two[:1]); os.SameFile(first, third) {
		t.Error("the file was not replaced by another, but written to")
	}
	apply(nil)
	if got := read(hosts); got != "127.0.0.1 localhost\n" {
		t.Errorf("without names the file is %q", got)
	}
}

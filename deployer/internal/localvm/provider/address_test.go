package provider

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// TestAddressesAreTakenOnce: however many ask at once, each gets its own, the
// lowest ones, and one that is given up is free again.
func TestAddressesAreTakenOnce(t *testing.T) {
	h := &host{dir: t.TempDir()}
	const n = 20
	got := make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			a, err := h.takeAddress(t.Context(), "10.1.2.0/27", 9, "")
			if err != nil {
				t.Error(err)
			}
			got[i] = a
		})
	}
	all.Wait()
	seen := map[string]bool{}
	for _, a := range got {
		if seen[a] {
			t.Errorf("%s was given twice", a)
		}
		seen[a] = true
	}
	if !seen["10.1.2.10"] || !seen["10.1.2.29"] {
		t.Errorf("not the lowest addresses after the first nine: %v", got)
	}
	for _, test := range []struct{ cidr, static, want string }{
		{"10.1.2.0/27", "10.1.2.10", "another VM of the deployment has it"},
		{"10.1.2.0/27", "10.9.9.9", "within 10.1.2.0/27"},
		{"10.1.2.0", "", "want an IPv4 range"},
		{"10.1.2.8/29", "", ""}, // .10 to .14 are taken, .9 is left
		{"10.1.2.8/29", "", "all are in use"},
	} {
		skip := int64(0)
		a, err := h.takeAddress(t.Context(), test.cidr, skip, test.static)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%+v: %s, %v", test, a, err)
		}
	}
}

// TestAVMIsTriedBeforeKVMIsBelieved runs the trial with the emulation, which works
// everywhere, and with an accelerator that does not exist.
func TestAVMIsTriedBeforeKVMIsBelieved(t *testing.T) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("%v; type make setup", err)
	}
	if works, err := kvmWorks(t.Context(), qemu, "tcg"); err != nil || !works {
		t.Errorf("the trial's instructions do not run: %v, %v", works, err)
	}
	if works, err := kvmWorks(t.Context(), qemu, "none"); err != nil || works {
		t.Errorf("an accelerator that is not there works: %v, %v", works, err)
	}
	if works, err := kvmWorks(t.Context(), "/bin/true", "tcg"); err != nil || works {
		t.Errorf("a program that runs nothing works: %v, %v", works, err)
	}
}

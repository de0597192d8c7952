package nginx

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What nginx finds fault with is said to be whose extra it is.
func TestExtraAt(t *testing.T) {
	config := strings.Join([]string{
		"http {",        // 1
		"# BEGIN extra", // 2
		"gzip on;",      // 3
		"map $a $b { }", // 4
		"# END extra",   // 5
		"server {",      // 6
		"  # BEGIN extra of domain www.shop.example", // 7
		"  location /x { return 200; }",              // 8
		"  # END extra",                              // 9
		"}",                                          // 10
		"server {",                                   // 11
		"  # BEGIN extra of domain *.b.example",      // 12
		"  location /y {",                            // 13
		"  # END extra",                              // 14
		"  location / { }",                           // 15
		"}",                                          // 16
		"}",                                          // 17
	}, "\n")
	for line, want := range map[int]string{
		0: "", 1: "", 3: "property extra", 4: "property extra", 6: "", 8: `extra of domain "www.shop.example"`, 10: "",
		13: `extra of domain "*.b.example"`, 15: `extra of domain "*.b.example"`, 17: `extra of domain "*.b.example"`,
	} {
		if got := extraAt(config, line); got != want {
			t.Errorf("line %d: %q, want %q", line, got, want)
		}
	}
	for text, want := range map[string]int{
		`nginx: [emerg] unknown directive "x" in /var/deploy/nginx.conf:312`:                         312,
		`nginx: [emerg] unexpected end of file, expecting "}" in /a/nginx.conf:99999999999999999999`: 0,
		"nginx: [emerg] bind() to 10.0.0.1:80 failed":                                                0,
	} {
		if got := faultyLine(text); got != want {
			t.Errorf("%s: line %d, want %d", text, got, want)
		}
	}
}

// Before anything changes, added addresses are free and this VM's; those that
// nginx has already may be taken.
func TestBindAll(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	for name, tc := range map[string]struct {
		wanted, ours []string
		want         string
	}{
		"free":         {[]string{"127.0.0.1:0", "127.0.0.2:0"}, nil, ""},
		"taken":        {[]string{address}, nil, "another process does"},
		"ours":         {[]string{address}, []string{address}, ""},
		"another's":    {[]string{"192.0.2.77:8080", address}, []string{address}, "is not one of this VM"},
		"two problems": {[]string{"192.0.2.77:8080", address}, nil, "another process does"},
	} {
		err := bindAll(t.Context(), tc.wanted, tc.ours)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "proof.json"), []byte(`{"addresses":["127.0.0.1","::1"],"port":80,"tls_port":443}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := readSetup(folder)
	if got := strings.Join(s.listeners(), " "); err != nil || got != "127.0.0.1:80 127.0.0.1:443 [::1]:80 [::1]:443" {
		t.Errorf("%s, %v", got, err)
	}
}

// TestHere: the proof asks only addresses that this VM has; a virtual one may be at
// another load balancer.
func TestHere(t *testing.T) {
	for address, want := range map[string]bool{"127.3.4.5": true, "::1": true, "192.0.2.77": false} {
		if here(address) != want {
			t.Errorf("%s is here: %v", address, !want)
		}
	}
}

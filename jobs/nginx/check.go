package nginx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Preflight checks a staged configuration before nginx sees it.
type Preflight struct {
	Program string // nginx
	Staged  string // folder of the staged files
	Active  string // folder of those that nginx runs with; it may not exist yet
	Run     string // folders that nginx writes to
	Data    string
}

// Check says all that keeps nginx from serving the staged configuration. It stores
// the certificates that this names; it changes nothing that is in use.
func (p Preflight) Check(ctx context.Context, now time.Time) error {
	for _, folder := range []string{p.Run, p.Data} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("cannot make a folder of nginx: %w", err)
		}
	}
	if err := Prepare(filepath.Join(p.Staged, "certificates.json"), filepath.Join(p.Data, "certificates"), now); err != nil {
		return err
	}
	wanted, err := readSetup(p.Staged)
	if err != nil {
		return err
	}
	active, err := readSetup(p.Active)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(bindAll(ctx, wanted.listeners(), active.listeners()), p.test(ctx))
}

// test lets nginx itself read the configuration.
func (p Preflight) test(ctx context.Context) error {
	config := filepath.Join(p.Staged, "nginx.conf")
	cmd := exec.CommandContext(ctx, p.Program, "-t", "-q", "-e", "stderr", "-p", p.Data, "-c", config)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if text == "" {
		text = err.Error()
	}
	lines, readErr := os.ReadFile(config)
	if m := moduleLine.FindStringSubmatch(string(lines)); m != nil {
		if _, err := os.Stat(m[1]); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot compress by brotli: %s does not exist on this machine; apt-get install libnginx-mod-http-brotli-filter, set property modules to the folder that has it, or set brotli = false", m[1])
		}
	}
	if whose := extraAt(string(lines), faultyLine(text)); readErr == nil && whose != "" {
		return fmt.Errorf("nginx does not take %s:\n%s", whose, text)
	}
	return errors.New(text)
}

// moduleLine is the line of nginx.conf that loads brotli's module.
var moduleLine = regexp.MustCompile(`(?m)^load_module "([^"]+)";$`)

var faultPlace = regexp.MustCompile(`nginx\.conf:(\d+)`)

// faultyLine returns the line of nginx.conf that nginx finds fault with, 0 if it
// names none.
func faultyLine(text string) int {
	m := faultPlace.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return n
}

// extraAt says whose extra a line of nginx.conf belongs to, "" if to none's. What a
// snippet leaves open nginx notices only later, so its end is looked for with care:
// a fault behind one that has unequal numbers of braces is that one's.
func extraAt(config string, line int) string {
	whose, unequal := "", ""
	open := 0
	for i, text := range strings.Split(config, "\n") {
		if i >= line {
			break
		}
		switch text = strings.TrimSpace(text); {
		case text == "# BEGIN extra":
			whose, open = "property extra", 0
		case strings.HasPrefix(text, "# BEGIN extra of domain "):
			whose, open = fmt.Sprintf("extra of domain %q", strings.TrimPrefix(text, "# BEGIN extra of domain ")), 0
		case text == "# END extra":
			if open != 0 && unequal == "" {
				unequal = whose
			}
			whose = ""
		default:
			open += strings.Count(text, "{") - strings.Count(text, "}")
		}
	}
	if unequal != "" {
		return unequal
	}
	return whose
}

// setup is proof.json: what a configuration must be seen to do.
type setup struct {
	Generation string   `json:"generation"`
	Addresses  []string `json:"addresses"`
	Port       int      `json:"port"`
	TLSPort    int      `json:"tls_port"` // 0: none
	Proxied    []int    `json:"proxied"`  // ports where connections begin with the PROXY protocol
	Domains    []string `json:"domains"`
}

func readSetup(folder string) (setup, error) {
	var s setup
	data, err := os.ReadFile(filepath.Join(folder, "proof.json"))
	if err != nil {
		return s, fmt.Errorf("cannot read what nginx is to serve: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("cannot read what nginx is to serve in %s: %w", folder, err)
	}
	return s, nil
}

// listeners returns the addresses with ports that a configuration listens on.
func (s setup) listeners() []string {
	var list []string
	for _, address := range s.Addresses {
		for _, port := range append([]int{s.Port, s.TLSPort}, s.Proxied...) {
			if port != 0 {
				list = append(list, net.JoinHostPort(address, strconv.Itoa(port)))
			}
		}
	}
	return list
}

// bindAll tests that addresses are free, this machine's and allowed, all at once.
// Those that are ours already may be taken.
func bindAll(ctx context.Context, wanted, ours []string) error {
	var config net.ListenConfig
	var problems []error
	for _, address := range wanted {
		listener, err := config.Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			defer listener.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			mine := false
			for _, own := range ours {
				mine = mine || own == address
			}
			if !mine {
				problems = append(problems, fmt.Errorf("cannot listen on %s: another process does; end it or choose another port", address))
			}
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			problems = append(problems, fmt.Errorf("cannot listen on %s: the address is not one of this VM; take it out of addresses, or give it to the VM", address))
		case errors.Is(err, syscall.EACCES):
			problems = append(problems, fmt.Errorf("cannot listen on %s: permission denied; choose a port above 1023, or give the agent the capability net_bind_service", address))
		default:
			problems = append(problems, fmt.Errorf("cannot listen on %s: %w", address, err))
		}
	}
	return errors.Join(problems...)
}

// certificates returns those of a folder's configuration by host name.
func certificates(folder string) (map[string]Certificate, error) {
	list, err := Read(filepath.Join(folder, "certificates.json"))
	if err != nil {
		return nil, err
	}
	out := map[string]Certificate{}
	for _, c := range list {
		for _, name := range strings.Fields(c.Name) {
			out[name] = c
		}
	}
	return out, nil
}

// sameLine reports whether an answer consists of one line.
func sameLine(body []byte, line string) bool {
	return bytes.Equal(bytes.TrimSpace(body), []byte(line))
}

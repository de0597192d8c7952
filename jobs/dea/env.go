package dea

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/dea/internal/core"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/wire"
)

// vmVariable marks what runs on a VM whose processes nothing else keeps apart.
// An app has it, too, so that it ends with its VM.
const vmVariable = "DEPLOY_VM"

// environment returns all that an app has in its environment. home is its folder
// as it sees it; expand has the user's values read as the original read them, see
// variables.quoted.
func environment(i core.Instance, ip, home string, expand bool) ([]string, error) {
	env := &variables{values: map[string]string{}}
	about, err := application(i, ip)
	if err != nil {
		return nil, err
	}
	services, err := boundServices(i.Start.Services)
	if err != nil {
		return nil, err
	}
	legacy, err := legacyServices(i.Start.Services)
	if err != nil {
		return nil, err
	}
	port := func(n int) string {
		if n == 0 {
			return ""
		}
		return fmt.Sprint(n)
	}
	address := func(n int) string {
		if n == 0 {
			return ""
		}
		return ip
	}
	env.set("PATH", runtimes.Path)
	env.set("HOME", home)
	// Without them Ruby and Java take text for ASCII, and clients of databases ask who
	// the user is; the user's own values count.
	env.set("LANG", "C.UTF-8")
	env.set("USER", "vcap")
	// Start scripts set it, too; sessions have none.
	env.set("TMPDIR", filepath.Join(home, "tmp"))
	env.set("VCAP_APPLICATION", about)
	env.set("VCAP_SERVICES", services)
	env.set("VCAP_APP_HOST", ip)
	env.set("VCAP_APP_PORT", port(i.Port))
	env.set("VCAP_DEBUG_IP", address(i.DebugPort))
	env.set("VCAP_DEBUG_PORT", port(i.DebugPort))
	env.set("VCAP_CONSOLE_IP", address(i.ConsolePort))
	env.set("VCAP_CONSOLE_PORT", port(i.ConsolePort))
	env.set("VMC_WARNING_WARNING", "All VMC_* environment variables are deprecated, please use VCAP_* versions.")
	env.set("VMC_SERVICES", legacy)
	env.set("VMC_APP_INSTANCE", about)
	env.set("VMC_APP_NAME", i.Start.Name)
	env.set("VMC_APP_ID", i.ID)
	env.set("VMC_APP_VERSION", i.Start.Version)
	env.set("VMC_APP_HOST", ip)
	env.set("VMC_APP_PORT", port(i.Port))
	env.later(i, ip)
	for _, s := range i.Start.Services {
		if name, at, ok := legacyAddress(s); ok {
			env.set(name, at)
		}
	}
	if vm, ok := os.LookupEnv(vmVariable); ok {
		env.set(vmVariable, vm)
	}
	info := i.Start.RuntimeInfo
	for _, name := range sortedKeys(info.Environment) {
		env.set(name, env.expand(info.Environment[name]))
	}
	if i.Start.Debug != nil {
		for _, pair := range info.DebugEnv[*i.Start.Debug] {
			env.user(pair, true)
		}
	}
	for _, pair := range i.Start.Env {
		env.user(pair, expand)
	}
	return env.list(), nil
}

// variables are set in an order, so that later ones may refer to earlier ones.
type variables struct {
	names  []string
	values map[string]string
}

func (v *variables) set(name, value string) {
	// The kernel takes no NUL, and no name without an end.
	if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
		return
	}
	if _, there := v.values[name]; !there {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

// later sets what Cloud Foundry's later generations have, so that apps written for
// them, or by the convention of PORT, run as they are. A user may set these anew.
func (v *variables) later(i core.Instance, ip string) {
	v.set("INSTANCE_INDEX", fmt.Sprint(i.Start.Index))
	v.set("INSTANCE_GUID", i.ID)
	v.set("CF_INSTANCE_INDEX", fmt.Sprint(i.Start.Index))
	v.set("CF_INSTANCE_GUID", i.ID)
	v.set("CF_INSTANCE_IP", ip)
	v.set("CF_INSTANCE_INTERNAL_IP", ip)
	v.set("MEMORY_LIMIT", fmt.Sprintf("%dm", i.Start.Limits.Mem))
	if i.Port == 0 { // an app that reads "" as a number would listen anywhere
		return
	}
	v.set("PORT", fmt.Sprint(i.Port))
	v.set("CF_INSTANCE_PORT", fmt.Sprint(i.Port))
	v.set("CF_INSTANCE_ADDR", net.JoinHostPort(ip, fmt.Sprint(i.Port)))
}

// user sets "K=V", V as it is, or quoted. A name that is reserved is left out.
func (v *variables) user(pair string, expand bool) {
	name, value, found := strings.Cut(pair, "=")
	name = strings.TrimSpace(name)
	if !found || reserved(name) {
		return
	}
	if expand {
		value = v.quoted(value)
	}
	v.set(name, value)
}

// quoted reads a value as the original's shell script did: as between double
// quotes, so that $NAME and ${NAME} stand for what is set already, unless it is in
// single quotes. Commands are not run.
func (v *variables) quoted(value string) string {
	switch {
	case strings.HasPrefix(value, "'"):
		return strings.TrimSuffix(value[1:], "'")
	case len(value) > 1 && strings.HasPrefix(value, `"`) && strings.HasSuffix(value, `"`):
		return v.expand(value[1 : len(value)-1])
	}
	return v.expand(value)
}

// reserved says whether a variable is the platform's: what it tells an app, and
// the marks by which processes are found.
func reserved(name string) bool {
	upper := strings.ToUpper(name)
	for _, prefix := range []string{"VCAP_", "VMC_", "DEPLOY_"} {
		if strings.HasPrefix(upper, prefix) {
			return true
		}
	}
	return false
}

func (v *variables) expand(text string) string {
	return os.Expand(text, func(name string) string { return v.values[name] })
}

func (v *variables) list() []string {
	list := make([]string, 0, len(v.names))
	for _, name := range v.names {
		list = append(list, name+"="+v.values[name])
	}
	return list
}

// application is the app's VCAP_APPLICATION.
func application(i core.Instance, ip string) (string, error) {
	doc := struct {
		InstanceID     string           `json:"instance_id"`
		InstanceIndex  int              `json:"instance_index"`
		Name           string           `json:"name"`
		URIs           []string         `json:"uris"`
		Users          []string         `json:"users,omitempty"`
		Version        string           `json:"version"`
		Start          string           `json:"start"`
		Runtime        string           `json:"runtime"`
		StateTimestamp int64            `json:"state_timestamp"`
		Port           int              `json:"port,omitempty"`
		Limits         map[string]int64 `json:"limits"`
		Host           string           `json:"host"`
	}{
		i.ID, i.Start.Index, i.Start.Name, append([]string{}, i.Start.URIs...), i.Start.Users, i.Start.Version,
		wire.FormatTime(i.Began.In(time.UTC)), i.Start.Runtime, i.Since, i.Port,
		map[string]int64{
			"fds": int64(i.Start.Limits.FDs), "mem": int64(i.Start.Limits.Mem) << 20, "disk": int64(i.Start.Limits.Disk) << 20,
		}, ip,
	}
	data, err := json.Marshal(doc)
	return string(data), err
}

// boundServices is VCAP_SERVICES: what is bound, by label.
func boundServices(services []wire.BoundService) (string, error) {
	type bound struct {
		Name        string          `json:"name"`
		Label       string          `json:"label"`
		Plan        string          `json:"plan"`
		Tags        []string        `json:"tags"`
		PlanOption  *string         `json:"plan_option"`
		Credentials json.RawMessage `json:"credentials"`
	}
	byLabel := map[string][]bound{}
	for _, s := range services {
		byLabel[s.Label] = append(byLabel[s.Label], bound{s.Name, s.Label, s.Plan, append([]string{}, s.Tags...), s.PlanOption, s.Credentials})
	}
	data, err := json.Marshal(byLabel)
	if err != nil {
		return "", fmt.Errorf("cannot tell the app of its services: %w", err)
	}
	return string(data), nil
}

// legacyServices is VMC_SERVICES. What was "tier" is called plan by now.
func legacyServices(services []wire.BoundService) (string, error) {
	type bound struct {
		Name    string          `json:"name"`
		Type    string          `json:"type"`
		Vendor  string          `json:"vendor"`
		Version string          `json:"version"`
		Tier    string          `json:"tier"`
		Options json.RawMessage `json:"options"`
	}
	list := []bound{}
	for _, s := range services {
		// The original calls the credentials options here.
		list = append(list, bound{s.Name, s.Type, s.Vendor, s.Version, s.Plan, s.Credentials})
	}
	data, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("cannot tell the app of its services: %w", err)
	}
	return string(data), nil
}

// legacyAddress is VMC_<VENDOR>=host:port.
func legacyAddress(s wire.BoundService) (name, address string, ok bool) {
	var c struct {
		Hostname string          `json:"hostname"`
		Host     string          `json:"host"`
		Port     json.RawMessage `json:"port"`
	}
	if err := json.Unmarshal(s.Credentials, &c); err != nil || s.Vendor == "" {
		return "", "", false
	}
	if c.Hostname == "" {
		c.Hostname = c.Host
	}
	port := strings.Trim(string(c.Port), `"`)
	if c.Hostname == "" || port == "" || port == "null" {
		return "", "", false
	}
	vendor := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(s.Vendor))
	return "VMC_" + vendor, c.Hostname + ":" + port, true
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

package terraform

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// Input describes what a template gets: the variables of templates/CONTRACT.md.
type Input struct {
	Deployment Deployment
	// Instances are the VMs by key: the instance's id, "router/0", or another one
	// for a VM that is made beside it.
	Instances    map[string]InstanceInput
	Disks        map[string]DiskInput // by instance id
	SSHPublicKey string               // authorized_keys line
	Settings     map[string]cty.Value // of the manifest's infrastructure block
	// Moves are groups' new names by the old ones: what the engine's state has of the
	// instances of an old name is the new one's.
	Moves map[string]string
}

// Deployment is the deployment's name for people and its id for tags.
type Deployment struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// InstanceInput is one VM as wanted. Zero values leave the choice to the
// template.
type InstanceInput struct {
	Group         string            `json:"group"`
	Index         int               `json:"index"`
	AZ            string            `json:"az"`
	CPUs          int               `json:"cpus"`
	MemoryMB      int               `json:"memory_mb"`
	DiskGB        int               `json:"disk_gb"`
	Image         string            `json:"image"`
	Options       map[string]string `json:"options"`
	Network       string            `json:"network"`
	StaticAddress string            `json:"static_address"`
	Tags          map[string]string `json:"tags"`
	Ports         []Port            `json:"ports"`
	// UserData holds what the VM's first boot does beside what the template says.
	UserData string `json:"user_data"`
}

// Port is a port that jobs of an instance listen on.
type Port struct {
	Port     int    `json:"port"`
	Protocol string `json:"protocol"` // "tcp" or "udp"
	// Public: clients from outside of the deployment come there.
	Public bool `json:"public"`
}

// DiskInput is one persistent disk as wanted.
type DiskInput struct {
	Group  string `json:"group"`
	Index  int    `json:"index"`
	SizeGB int    `json:"size_gb"`
	// Attached: the instance's VM has it. One that is not is kept.
	Attached bool `json:"attached"`
}

// Instance is one VM as it is: the template's output.
type Instance struct {
	ID         string `json:"id"` // another VM, another id
	Address    string `json:"address"`
	SSHHost    string `json:"ssh_host"`
	SSHPort    int    `json:"ssh_port"`
	SSHUser    string `json:"ssh_user"`
	SSHHostKey string `json:"ssh_host_key"` // authorized_keys form; "": unknown
	// SSHPrivateKeyFile is the key to log in with: a path, state.SSHAgent, or "" for
	// the deployment's own.
	SSHPrivateKeyFile string `json:"ssh_private_key_file"`
	AgentDir          string `json:"agent_dir"`
	OS                string `json:"os"`   // as in Go
	Arch              string `json:"arch"` // as in Go
	Disk              string `json:"disk"` // device or folder; "": none
	Running           bool   `json:"running"`
	// ImageDir is the place where the files of the VM's image are; "": at "/".
	ImageDir string `json:"image_dir"`
	// Keep: the machine outlives the instance, so the agent is removed from it.
	Keep bool `json:"keep"`
	// Beside: another VM of the instance can be made beside it.
	Beside bool `json:"beside"`
	// Console is the file on this machine that holds what the VM's console shows; "":
	// none.
	Console string `json:"console"`
	// System: the whole system is the instance's, names of hosts included.
	System bool `json:"system"`
	// BootSeconds is the time that a new VM may take until it lets us in; 0: not said.
	BootSeconds int `json:"boot_seconds"`
}

// arguments are the module call's arguments as JSON values. Strings are
// escaped, since the engine reads each as a string template.
func (in Input) arguments() (map[string]any, error) {
	settings := map[string]json.RawMessage{}
	for name, value := range in.Settings {
		data, err := ctyjson.Marshal(value, value.Type())
		if err != nil {
			return nil, fmt.Errorf("cannot pass the setting %s to the template: %w", name, err)
		}
		settings[name] = data
	}
	instances := map[string]InstanceInput{}
	for key, i := range in.Instances { // a map(string) variable takes no null
		i.Options = nonNil(i.Options)
		i.Tags = nonNil(i.Tags)
		if i.Ports == nil {
			i.Ports = []Port{}
		}
		instances[key] = i
	}
	data, err := json.Marshal(map[string]any{
		"deployment":     in.Deployment,
		"instances":      instances,
		"disks":          nonNil(in.Disks),
		"ssh_public_key": in.SSHPublicKey,
		"settings":       settings,
	})
	if err != nil {
		return nil, err
	}
	decoded, err := decodeJSON(data)
	if err != nil {
		return nil, err
	}
	return escape(decoded).(map[string]any), nil
}

func nonNil[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// readInstances reads the output "instances" and checks it against what went in.
func readInstances(output json.RawMessage, in Input) (map[string]Instance, error) {
	var instances map[string]Instance
	if err := json.Unmarshal(output, &instances); err != nil {
		return nil, fmt.Errorf("cannot read the template's output \"instances\": %w; see templates/CONTRACT.md", err)
	}
	wanted := in.Instances
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		instance, found := instances[id]
		if !found {
			errs = append(errs, fmt.Errorf("instance %s is missing", id))
			continue
		}
		for _, attribute := range []struct{ name, value string }{
			{"id", instance.ID}, {"address", instance.Address}, {"ssh_host", instance.SSHHost}, {"ssh_user", instance.SSHUser},
			{"agent_dir", instance.AgentDir}, {"os", instance.OS}, {"arch", instance.Arch},
		} {
			if attribute.value == "" {
				errs = append(errs, fmt.Errorf("instance %s has no %s", id, attribute.name))
			}
		}
		if instance.SSHPort < 1 || instance.SSHPort > 65535 {
			errs = append(errs, fmt.Errorf("instance %s has ssh_port %d", id, instance.SSHPort))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(instances)) {
		if _, found := wanted[id]; !found {
			errs = append(errs, fmt.Errorf("instance %s was not asked for", id))
		}
	}
	if len(errs) > 0 {
		slices.SortStableFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
		return nil, fmt.Errorf("the template's output \"instances\" breaks the contract of templates/CONTRACT.md: %w", errors.Join(errs...))
	}
	return instances, nil
}

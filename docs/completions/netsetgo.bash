# shellcheck shell=bash
# Completion of netsetgo(8) for bash.

_netsetgo() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words='' path
    case $previous in
    -pid | --pid)
        for path in /proc/[0-9]*; do if [[ -O $path ]]; then words+=" ${path##*/}"; fi; done
        ;;
    -netns | --netns)
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "${word:-/run/netns/}")
        return
        ;;
    -bridgeName | --bridgeName)
        for path in /sys/class/net/*/bridge; do
            if [[ -e $path ]]; then path=${path%/*} words+=" ${path##*/}"; fi
        done
        ;;
    -user | --user)
        mapfile -t COMPREPLY < <(compgen -u -- "$word")
        return
        ;;
    -address | -id | --address | --id) ;;
    -bridgeAddress | -containerAddress | -vethNamePrefix | -ifname | -mtu | -wait | -publish) ;;
    --bridgeAddress | --containerAddress | --vethNamePrefix | --ifname | --mtu | --wait | --publish) ;;
    *)
        words='pid netns bridgeName bridgeAddress containerAddress vethNamePrefix ifname mtu lo wait
            publish json resolvconf hook annotations delete address id user list check prune version help'
        # One dash or two, as begun.
        if [[ $word == --* ]]; then previous=--; else previous=-; fi
        mapfile -t COMPREPLY < <(compgen -P "$previous" -W "$words" -- "${word#"$previous"}")
        return
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _netsetgo netsetgo
